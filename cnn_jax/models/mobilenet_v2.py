"""MobileNetV2: inverted residual blocks with linear bottlenecks.

Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381,
table 2.

    | input         | classes | parameters | MACs    |
    |---------------|---------|------------|---------|
    | 224 x 224 x 3 |    1000 |  3,504,872 | 300.8 M | 3.47 M, 300 M in the authors' repository
    | 32 x 32 x 3   |      10 |  2,236,682 |  24.5 M | with the small stem
"""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from cnn_jax import nn
from cnn_jax.models import inverted_residual as shared
from cnn_jax.models.base import Classifier, Counterpart, LayerFactory, choose_stem

# Expansion factor, output channels, number of blocks, and stride of the first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    width: float = 1.0,
    stem: str | None = None,
    dropout: float = 0.2,
) -> Classifier:
    """Makes MobileNetV2.

    Args:
        width: factor that multiplies all channel counts, which are then rounded to multiples of 8;
            below 1 the last convolution keeps its 1280 channels, as in the paper.
        stem: 'large' (the first convolution has stride 2) or 'small' (stride 1); None means
            'small' below 64 pixels, else 'large'.
        dropout: rate before the last layer.
    """
    shared.check_width(width)
    channels = shared.round_channels(32 * width)
    stem = choose_stem(stem, input_shape)
    strides = 2 if stem == 'large' else 1
    layers: dict[str, Any] = {
        'stem': shared.conv_bn(make, input_shape[-1], channels, 3, strides=strides, act=nnx.relu6)
    }
    number = 0
    for factor, features, count, first_strides in STAGES:
        features = shared.round_channels(features * width)
        for i in range(count):
            number += 1
            layers[f'block{number}'] = shared.inverted_residual(
                make,
                channels,
                factor * channels,
                features,
                3,
                strides=first_strides if i == 0 else 1,
                act=nnx.relu6,
            )
            channels = features
    last = shared.round_channels(1280 * max(1.0, width))
    layers['head'] = shared.conv_bn(make, channels, last, 1, act=nnx.relu6)
    layers['pool'] = nn.GlobalAvgPool()
    layers['dropout'] = make.dropout(dropout)
    layers['fc'] = make.linear(last, num_classes)
    theirs = Counterpart(torchvision_names) if stem == 'large' else None
    return Classifier(nn.Layers(layers), input_shape, num_classes, torchvision=theirs)


def torchvision_names(layers: Sequence[str]) -> dict[str, str]:
    """Maps the names of layers to torchvision's, where 'project' is no module of its own."""
    names = shared.torchvision_names(layers, inside='conv')
    del names['pool']  # a function there
    for name in layers:
        if name.endswith('.project'):
            conv = names.pop(name)
            before, _, place = conv.rpartition('.')
            names[f'{name}.conv'] = conv
            names[f'{name}.bn'] = f'{before}.{int(place) + 1}'
    return names

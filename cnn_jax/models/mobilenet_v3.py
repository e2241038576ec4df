"""MobileNetV3, large and small.

Howard et al. 2019, "Searching for MobileNetV3", arXiv:1905.02244, tables 1 and 2: MobileNetV2's
blocks with squeeze-and-excitation in some of them and hard swish, or hard SiLU, in the later ones,
and a dense hidden layer after the pool. As in torchvision, batch norm has epsilon 1e-3, and the
squeeze-and-excitation has a quarter of the expanded channels, rounded to a multiple of 8.

    |       | input         | classes | parameters | MACs    |
    |-------|---------------|---------|------------|---------|
    | large | 224 x 224 x 3 |    1000 |  5,483,032 | 216.6 M | 217 M in the authors' repository
    | small | 224 x 224 x 3 |    1000 |  2,542,856 |  56.5 M | 0.06 G in torchvision
"""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import Classifier, Counterpart, LayerFactory, choose_stem
from cnn_jax.models.inverted_residual import (
    check_width,
    conv_bn,
    inverted_residual,
    round_channels,
    torchvision_names,
)

# Window, expanded channels, output channels, squeeze-and-excitation, activation and stride of each
# block.
BLOCKS = {
    'large': (
        (3, 16, 16, False, nnx.relu, 1),
        (3, 64, 24, False, nnx.relu, 2),
        (3, 72, 24, False, nnx.relu, 1),
        (5, 72, 40, True, nnx.relu, 2),
        (5, 120, 40, True, nnx.relu, 1),
        (5, 120, 40, True, nnx.relu, 1),
        (3, 240, 80, False, nnx.hard_silu, 2),
        (3, 200, 80, False, nnx.hard_silu, 1),
        (3, 184, 80, False, nnx.hard_silu, 1),
        (3, 184, 80, False, nnx.hard_silu, 1),
        (3, 480, 112, True, nnx.hard_silu, 1),
        (3, 672, 112, True, nnx.hard_silu, 1),
        (5, 672, 160, True, nnx.hard_silu, 2),
        (5, 960, 160, True, nnx.hard_silu, 1),
        (5, 960, 160, True, nnx.hard_silu, 1),
    ),
    'small': (
        (3, 16, 16, True, nnx.relu, 2),
        (3, 72, 24, False, nnx.relu, 2),
        (3, 88, 24, False, nnx.relu, 1),
        (5, 96, 40, True, nnx.hard_silu, 2),
        (5, 240, 40, True, nnx.hard_silu, 1),
        (5, 240, 40, True, nnx.hard_silu, 1),
        (5, 120, 48, True, nnx.hard_silu, 1),
        (5, 144, 48, True, nnx.hard_silu, 1),
        (5, 288, 96, True, nnx.hard_silu, 2),
        (5, 576, 96, True, nnx.hard_silu, 1),
        (5, 576, 96, True, nnx.hard_silu, 1),
    ),
}
HIDDEN = {'large': 1280, 'small': 1024}  # units of the dense hidden layer
BATCH_NORM = {'epsilon': 1e-3, 'momentum': 0.99}


def mobilenet_v3(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    size: str = 'large',
    width: float = 1.0,
    stem: str | None = None,
    dropout: float = 0.2,
) -> Classifier:
    """Makes MobileNetV3.

    Args:
        size: 'large' or 'small'.
        width: factor that multiplies all channel counts, which are then rounded to multiples of 8.
        stem: 'large' (the first convolution has stride 2) or 'small' (stride 1); None means
            'small' below 64 pixels, else 'large'.
        dropout: rate before the last layer.
    """
    if size not in BLOCKS:
        raise UserError(f"size={size!r} must be 'large' or 'small'")
    check_width(width)

    def squeeze(expanded: int) -> nn.SqueezeExcitation:
        return make.squeeze_excitation(
            expanded, round_channels(expanded // 4), gate=nnx.hard_sigmoid
        )

    channels = round_channels(16 * width)
    stem = choose_stem(stem, input_shape)
    strides = 2 if stem == 'large' else 1
    options: dict[str, Any] = {'act': nnx.hard_silu, 'norm': BATCH_NORM}
    layers: dict[str, Any] = {
        'stem': conv_bn(make, input_shape[-1], channels, 3, strides=strides, **options)
    }
    for i, (window, expanded, features, squeezes, act, strides) in enumerate(BLOCKS[size], start=1):
        features = round_channels(features * width)
        layers[f'block{i}'] = inverted_residual(
            make,
            channels,
            round_channels(expanded * width),
            features,
            window,
            strides=strides,
            act=act,
            squeeze=squeeze if squeezes else None,
            norm=BATCH_NORM,
        )
        channels = features
    layers['head'] = conv_bn(make, channels, 6 * channels, 1, **options)
    layers['pool'] = nn.GlobalAvgPool()
    hidden = round_channels(HIDDEN[size] * width)
    layers['hidden'] = make.linear(6 * channels, hidden)
    layers['hard_silu'] = nnx.hard_silu
    layers['dropout'] = make.dropout(dropout)
    layers['fc'] = make.linear(hidden, num_classes)
    theirs = Counterpart(torchvision_names) if stem == 'large' else None
    return Classifier(nn.Layers(layers), input_shape, num_classes, torchvision=theirs)

"""GoogLeNet (Inception version 1): blocks of parallel convolutions of several sizes.

Szegedy et al. 2015, "Going Deeper with Convolutions", arXiv:1409.4842, table 1, in torchvision's
form. Differences from the paper: batch normalisation (epsilon 0.001) after every convolution and no
local response normalisation; 3 x 3 convolutions where the paper has 5 x 5; dropout of 0.2 instead
of 0.4. There are no auxiliary classifiers, which the paper uses in training only. For images below
64 pixels the layers before the first block are one 3 x 3 convolution of stride 1.

    | input         | classes | parameters | MACs   |
    |---------------|---------|------------|--------|
    | 224 x 224 x 3 |    1000 |  6,624,904 | 1.50 G | as stated by torchvision
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import Classifier, Counterpart, LayerFactory, choose_stem
from cnn_jax.models.pretrained import MEAN, STD

# Features of each block: 1 x 1; before and of the first 3 x 3; before and of the second 3 x 3;
# after the pool. A pool precedes blocks 4a and 5a.
BLOCKS = {
    '3a': (64, 96, 128, 16, 32, 32),
    '3b': (128, 128, 192, 32, 96, 64),
    '4a': (192, 96, 208, 16, 48, 64),
    '4b': (160, 112, 224, 24, 64, 64),
    '4c': (128, 128, 256, 24, 64, 64),
    '4d': (112, 144, 288, 32, 64, 64),
    '4e': (256, 160, 320, 32, 128, 128),
    '5a': (256, 160, 320, 32, 128, 128),
    '5b': (384, 192, 384, 48, 128, 128),
}

CONV_INIT = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def googlenet(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    stem: str | None = None,
    dropout: float = 0.2,
    width: float = 1.0,
    transform_input: bool = False,
) -> Classifier:
    """Makes GoogLeNet.

    Args:
        stem: 'large' (7 x 7 of stride 2, pool, 1 x 1, 3 x 3, pool) or 'small' (3 x 3 of stride 1);
            None means 'small' below 64 pixels, else 'large'.
        dropout: rate before the last layer.
        width: factor that multiplies all channel counts.
        transform_input: whether the inputs, standardised with ImageNet's statistics, are brought to
            [-1, 1] first, as torchvision's weights need.
    """
    stem = choose_stem(stem, input_shape)
    if transform_input and input_shape[-1] != 3:
        raise UserError(f'transform_input=True needs 3 channels, got {input_shape[-1]}')

    def scaled(features: int) -> int:
        return max(1, round(features * width))

    def unit(inputs: int, features: int, window: int, strides: int = 1) -> nn.Layers:
        return nn.Layers(
            {
                'conv': make.conv(
                    inputs,
                    features,
                    (window, window),
                    strides=strides,
                    padding=window // 2,
                    use_bias=False,
                    kernel_init=CONV_INIT,
                ),
                'bn': make.batch_norm(features, epsilon=1e-3),
                'relu': nnx.relu,
            }
        )

    def inception(inputs: int, features: Sequence[int]) -> nn.Concat:
        one, reduce2, three2, reduce3, three3, project = features
        pool = make.max_pool((3, 3), 1, padding=1)

        def bottleneck(reduced: int, expanded: int) -> nn.Layers:
            return nn.Layers(
                {'reduce': unit(inputs, reduced, 1), 'expand': unit(reduced, expanded, 3)}
            )

        return nn.Concat(
            {
                'branch1': unit(inputs, one, 1),
                'branch2': bottleneck(reduce2, three2),
                'branch3': bottleneck(reduce3, three3),
                'branch4': nn.Layers({'pool': pool, 'project': unit(inputs, project, 1)}),
            }
        )

    layers: dict[str, Any] = {'transform': to_symmetric} if transform_input else {}
    channels, before = scaled(192), scaled(64)
    if stem == 'large':
        layers['conv1'] = unit(input_shape[-1], before, 7, 2)
        layers['maxpool1'] = make.max_pool((3, 3), 2, ceil_mode=True)
        layers['conv2'] = unit(before, before, 1)
        layers['conv3'] = unit(before, channels, 3)
        layers['maxpool2'] = make.max_pool((3, 3), 2, ceil_mode=True)
    else:
        layers['conv1'] = unit(input_shape[-1], channels, 3)
    for name, features in BLOCKS.items():
        if name == '4a':
            layers['maxpool3'] = make.max_pool((3, 3), 2, ceil_mode=True)
        if name == '5a':
            layers['maxpool4'] = make.max_pool((2, 2), 2, ceil_mode=True)
        features = tuple(scaled(n) for n in features)
        layers[f'inception{name}'] = inception(channels, features)
        channels = features[0] + features[2] + features[4] + features[5]
    layers['pool'] = nn.GlobalAvgPool()
    layers['drop'] = make.dropout(dropout)
    layers['fc'] = make.linear(channels, num_classes)
    theirs = Counterpart(torchvision_names, unused=('aux1.', 'aux2.')) if stem == 'large' else None
    return Classifier(nn.Layers(layers), input_shape, num_classes, torchvision=theirs)


def to_symmetric(x: jax.Array) -> jax.Array:
    """Maps images standardised with ImageNet's statistics to [-1, 1]: (N, height, width, 3)."""
    mean, std = np.asarray(MEAN, x.dtype), np.asarray(STD, x.dtype)
    return (x * std + mean - 0.5) / 0.5


def torchvision_names(layers: Sequence[str]) -> dict[str, str]:
    """Maps the names of layers to torchvision's, whose units have a convolution and batch norm."""
    outside = {'pool': 'avgpool', 'drop': 'dropout'}
    inside = {'reduce': '0', 'expand': '1', 'pool': '0', 'project': '1'}
    names = {}
    for name in layers:
        first, *rest = name.split('.')
        if name != 'transform' and rest[-1:] != ['relu']:
            theirs = [outside.get(first, first), *(inside.get(part, part) for part in rest)]
            names[name] = '.'.join(theirs)
    return names

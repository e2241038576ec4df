"""DenseNet: every layer of a block sees the maps of all layers before it.

Huang, Liu, van der Maaten & Weinberger 2017, "Densely Connected Convolutional Networks",
arXiv:1608.06993, table 1: DenseNet-BC, with bottlenecks and transitions that halve the channels.
For images below 64 pixels it uses the small stem: one 3 x 3 convolution of stride 1 and no pool.

    |              | input         | classes | parameters | MACs   |
    |--------------|---------------|---------|------------|--------|
    | DenseNet-121 | 224 x 224 x 3 |    1000 |  7,978,856 | 2.83 G | as stated by torchvision
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import Classifier, Counterpart, LayerFactory, choose_stem

CONV_INIT = nnx.initializers.variance_scaling(2.0, 'fan_in', 'normal')


def densenet(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    counts: tuple[int, ...] = (6, 12, 24, 16),
    growth: int = 32,
    stem: str | None = None,
) -> Classifier:
    """Makes DenseNet.

    Args:
        counts: layers in each dense block. DenseNet-169 has (6, 12, 32, 32), DenseNet-201
            (6, 12, 48, 32).
        growth: channels that each layer adds (the paper's k). The stem has twice as many; a
            bottleneck has four times as many.
        stem: 'large' (7 x 7 of stride 2, then a pool of stride 2) or 'small' (3 x 3 of stride 1);
            None means 'small' below 64 pixels, else 'large'.
    """
    stem = choose_stem(stem, input_shape)
    if not counts or min(counts) < 1 or growth < 1:
        raise UserError(f'counts={tuple(counts)} and growth={growth} must be positive')

    def conv(inputs: int, features: int, window: int, strides: int = 1) -> nn.Conv:
        return make.conv(
            inputs,
            features,
            (window, window),
            strides=strides,
            padding=window // 2,
            use_bias=False,
            kernel_init=CONV_INIT,
        )

    def dense_layer(inputs: int) -> nn.Concat:
        new = {
            'norm1': make.batch_norm(inputs),
            'relu1': nnx.relu,
            'conv1': conv(inputs, 4 * growth, 1),
            'norm2': make.batch_norm(4 * growth),
            'relu2': nnx.relu,
            'conv2': conv(4 * growth, growth, 3),
        }
        return nn.Concat({'inputs': jax.nn.identity, 'new': nn.Layers(new)})

    channels = 2 * growth
    window, strides = (7, 2) if stem == 'large' else (3, 1)
    layers: dict[str, Any] = {
        'conv0': conv(input_shape[-1], channels, window, strides),
        'norm0': make.batch_norm(channels),
        'relu0': nnx.relu,
    }
    if stem == 'large':
        layers['pool0'] = make.max_pool((3, 3), 2, padding=1)
    for block, count in enumerate(counts, start=1):
        dense = {f'layer{i + 1}': dense_layer(channels + i * growth) for i in range(count)}
        layers[f'block{block}'] = nn.Layers(dense)
        channels += count * growth
        if block < len(counts):
            transition = {
                'norm': make.batch_norm(channels),
                'relu': nnx.relu,
                'conv': conv(channels, channels // 2, 1),
                'pool': make.avg_pool((2, 2)),
            }
            layers[f'transition{block}'] = nn.Layers(transition)
            channels //= 2
    layers['norm5'] = make.batch_norm(channels)
    layers['relu5'] = nnx.relu
    layers['pool'] = nn.GlobalAvgPool()
    layers['fc'] = make.linear(channels, num_classes)
    theirs = Counterpart(torchvision_names, present_name=present_name) if stem == 'large' else None
    return Classifier(nn.Layers(layers), input_shape, num_classes, torchvision=theirs)


def torchvision_names(layers: Sequence[str]) -> dict[str, str]:
    """Maps the names of layers to torchvision's, whose dense layers return the new maps alone."""
    names = {}
    for name in layers:
        theirs = re.sub(r'^block(\d+)\.layer(\d+)\.new', r'denseblock\1.denselayer\2', name)
        theirs = re.sub(r'^block(\d+)$', r'denseblock\1', theirs)
        if not theirs.startswith('block') and name not in ('relu5', 'pool', 'fc'):
            names[name] = f'features.{theirs}'
    return names | {'fc': 'classifier'}


def present_name(name: str) -> str:
    """Maps norm.1 to norm1, and so on: torchvision's files predate a change of its names."""
    return re.sub(r'(denselayer\d+\.(?:norm|relu|conv))\.([12])\.', r'\1\2.', name)

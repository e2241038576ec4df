"""EfficientNet: a searched network and a rule that scales its depth, width and image size together.

Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
arXiv:1905.11946, table 1: MobileNetV2's blocks with squeeze-and-excitation, SiLU and stochastic
depth. As in torchvision, batch norm has the settings of the other networks here, and the
squeeze-and-excitation has a quarter of the block's input channels.

    |    | input         | classes | parameters | MACs    |
    |----|---------------|---------|------------|---------|
    | B0 | 224 x 224 x 3 |    1000 |  5,288,548 | 385.8 M | 0.39 G in torchvision
    | B1 | 240 x 240 x 3 |    1000 |  7,794,184 | 686.8 M | 0.69 G in torchvision
"""

import math
from collections.abc import Sequence
from functools import partial
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

# Expansion factor, window, stride of the first block, output channels, and number of blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def efficientnet(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    stem: str | None = None,
    dropout: float = 0.2,
    drop_rate: float = 0.2,
) -> Classifier:
    """Makes EfficientNet.

    The authors' (width, depth, image size, dropout) are B0 (1.0, 1.0, 224, 0.2), B1 (1.0, 1.1, 240,
    0.2), B2 (1.1, 1.2, 260, 0.3), B3 (1.2, 1.4, 300, 0.3) and B4 (1.4, 1.8, 380, 0.4).

    Args:
        width: factor that multiplies all channel counts, which are then rounded to multiples of 8.
        depth: factor that multiplies the number of blocks of each stage, which is then rounded up.
        stem: 'large' (the first convolution has stride 2) or 'small' (stride 1); None means
            'small' below 64 pixels, else 'large'.
        dropout: rate before the last layer.
        drop_rate: rate of stochastic depth towards which the blocks' rates rise linearly, from 0 in
            the first of n blocks to `drop_rate` * (n - 1) / n in the last.
    """
    check_width(width)
    if depth <= 0:
        raise UserError(f'depth={depth} must be positive')
    counts = [math.ceil(count * depth) for *_, count in STAGES]
    channels = round_channels(32 * width)
    stem = choose_stem(stem, input_shape)
    strides = 2 if stem == 'large' else 1
    layers: dict[str, Any] = {
        'stem': conv_bn(make, input_shape[-1], channels, 3, strides=strides, act=nnx.silu)
    }
    before = 0
    for i, ((factor, window, strides, features, _), count) in enumerate(
        zip(STAGES, counts, strict=True), start=1
    ):
        features = round_channels(features * width)
        blocks = {}
        for j in range(count):
            blocks[f'block{j}'] = inverted_residual(
                make,
                channels,
                round_channels(factor * channels),
                features,
                window,
                strides=strides if j == 0 else 1,
                act=nnx.silu,
                squeeze=partial(_squeeze, make, max(1, channels // 4)),
                drop_rate=drop_rate * before / sum(counts),
            )
            channels = features
            before += 1
        layers[f'stage{i}'] = nn.Layers(blocks)
    layers['head'] = conv_bn(make, channels, 4 * channels, 1, act=nnx.silu)
    layers['pool'] = nn.GlobalAvgPool()
    layers['dropout'] = make.dropout(dropout)
    layers['fc'] = make.linear(4 * channels, num_classes)
    theirs = Counterpart(torchvision_names) if stem == 'large' else None
    return Classifier(nn.Layers(layers), input_shape, num_classes, torchvision=theirs)


def _squeeze(make: LayerFactory, hidden: int, channels: int) -> nn.SqueezeExcitation:
    return make.squeeze_excitation(channels, hidden, act=nnx.silu)

"""ConvNeXt: a convolutional network with the design of vision transformers.

Liu et al. 2022, "A ConvNet for the 2020s", arXiv:2201.03545, section 2 and table 9: a block is a
depthwise 7 x 7 convolution, a layer norm over the channels, and a dense layer to four times the
channels and back, with GELU between them; a factor per channel (layer scale) and stochastic depth
come before the sum.

    |            | input         | classes | parameters | MACs    |
    |------------|---------------|---------|------------|---------|
    | ConvNeXt-T | 224 x 224 x 3 |    1000 | 28,589,128 |  4.46 G | as stated by torchvision
    | ConvNeXt-S | 224 x 224 x 3 |    1000 | 50,223,688 |  8.68 G |
    | ConvNeXt-B | 224 x 224 x 3 |    1000 | 88,591,464 | 15.35 G |
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import Classifier, Counterpart, LayerFactory, choose_stem
from cnn_jax.models.torchvision_names import positions

# The authors' truncation of the normal at 100 standard deviations has no effect.
INIT = nnx.initializers.normal(0.02)
EPSILON = 1e-6


class LayerScale(nnx.Module):
    """Multiplies each channel by a trainable factor (Touvron et al. 2021, arXiv:2103.17239)."""

    def __init__(self, channels: int, value: float):
        self.layer_scale = nnx.Param(jnp.full((channels,), value, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.layer_scale[...].astype(x.dtype)


def convnext(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    depths: tuple[int, ...] = (3, 3, 9, 3),
    width: int = 96,
    stem: str | None = None,
    drop_rate: float = 0.1,
    layer_scale: float = 1e-6,
) -> Classifier:
    """Makes ConvNeXt.

    Args:
        depths: number of blocks of each stage.
        width: channels of the first stage; each later stage has twice as many as the one before.
        stem: 'large' (patches of 4 x 4) or 'small' (2 x 2); None means 'small' below 64 pixels,
            else 'large'.
        drop_rate: rate of stochastic depth in the last block; it rises linearly from 0 in the
            first.
        layer_scale: initial factor of every residual branch.
    """
    if min(depths, default=0) < 1:
        raise UserError(f'depths={tuple(depths)} must be one or more positive numbers')
    if width < 1:
        raise UserError(f'width={width} must be at least 1')
    stem = choose_stem(stem, input_shape)
    patch = 4 if stem == 'large' else 2
    layers: dict[str, Any] = {
        'stem': nn.Layers(
            {
                'conv': _patches(make, input_shape[-1], width, patch),
                'norm': make.layer_norm(width, epsilon=EPSILON),
            }
        )
    }
    last, number, channels = sum(depths) - 1, 0, width
    for stage, count in enumerate(depths, start=1):
        if stage > 1:
            layers[f'downsample{stage}'] = nn.Layers(
                {
                    'norm': make.layer_norm(channels, epsilon=EPSILON),
                    'conv': _patches(make, channels, 2 * channels, 2),
                }
            )
            channels *= 2
        blocks = {}
        for i in range(count):
            rate = drop_rate * number / max(1, last)
            blocks[f'block{i}'] = _block(make, channels, rate, layer_scale)
            number += 1
        layers[f'stage{stage}'] = nn.Layers(blocks)
    layers['pool'] = nn.GlobalAvgPool()
    layers['norm'] = make.layer_norm(channels, epsilon=EPSILON)
    layers['fc'] = make.linear(channels, num_classes, kernel_init=INIT)
    theirs = Counterpart(torchvision_names) if stem == 'large' else None
    return Classifier(nn.Layers(layers), input_shape, num_classes, torchvision=theirs)


def torchvision_names(layers: Sequence[str]) -> dict[str, str]:
    """Maps the names of layers to torchvision's, whose blocks own their layer scale."""
    places = positions(layers)
    inside = {
        'depthwise': '.block.0',
        'norm': '.block.2',
        'expand': '.block.3',
        'gelu': '.block.4',
        'project': '.block.5',
        'scale': '',
        'drop': '.stochastic_depth',
    }
    names = {}
    for name in layers:
        parts = name.split('.')
        theirs = f'features.{places[parts[0]]}'
        if len(parts) > 1:
            theirs += f'.{places[".".join(parts[:2])]}'
        if len(parts) > 2:
            theirs += inside[parts[2]]
        names[name] = theirs
    return names | {'pool': 'avgpool', 'norm': 'classifier.0', 'fc': 'classifier.2'}


def _patches(make: LayerFactory, channels: int, features: int, side: int) -> nn.Conv:
    """Makes a convolution whose windows do not overlap."""
    return make.conv(
        channels, features, (side, side), strides=side, padding='VALID', kernel_init=INIT
    )


def _block(make: LayerFactory, channels: int, drop_rate: float, layer_scale: float) -> nn.Residual:
    layers: dict[str, Any] = {
        'depthwise': make.conv(
            channels, channels, (7, 7), padding=3, feature_group_count=channels, kernel_init=INIT
        ),
        'norm': make.layer_norm(channels, epsilon=EPSILON),
        'expand': make.linear(channels, 4 * channels, kernel_init=INIT),
        'gelu': _gelu,
        'project': make.linear(4 * channels, channels, kernel_init=INIT),
        'scale': LayerScale(channels, layer_scale),
    }
    if drop_rate:
        layers['drop'] = make.stochastic_depth(drop_rate)
    return nn.Residual(layers)


def _gelu(x: jax.Array) -> jax.Array:
    return nnx.gelu(x, approximate=False)

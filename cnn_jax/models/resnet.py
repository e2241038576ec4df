"""ResNet-18, -34 and -50, and the CIFAR ResNets (-20, -32, -44, -56, -110).

He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.

`resnet` is torchvision's form of the paper's table 1 (in ResNet-50 the 3 x 3 convolution has the
stride, not the first 1 x 1). For images below 64 pixels it uses the customary small stem: one
3 x 3 convolution of stride 1 and no pool. `cifar_resnet` is the network of section 4.2, with the
parameter-free shortcut (option A).

    |           | input         | classes | parameters | MACs    |
    |-----------|---------------|---------|------------|---------|
    | ResNet-18 | 224 x 224 x 3 |    1000 | 11,689,512 |  1.81 G | as stated by torchvision
    | ResNet-34 | 224 x 224 x 3 |    1000 | 21,797,672 |  3.66 G |
    | ResNet-50 | 224 x 224 x 3 |    1000 | 25,557,032 |  4.09 G |
    | ResNet-18 | 32 x 32 x 3   |      10 | 11,173,962 |  0.56 G |
    | ResNet-20 | 32 x 32 x 3   |      10 |    269,722 |  40.6 M | 0.27 M in the paper, table 6
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import Classifier, Counterpart, LayerFactory, is_small

# Depth: blocks per stage, and whether they are bottlenecks (1 x 1, 3 x 3, 1 x 1).
STAGES = {18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True)}

CONV_INIT = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Subsample(nnx.Module):
    """Takes every `strides`-th position of both axes and appends `extra` channels of zeros."""

    def __init__(self, strides: int, extra: int):
        self.strides = strides
        self.extra = extra

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x[:, :: self.strides, :: self.strides]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.extra)))


def resnet(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    depth: int = 50,
    stem: str | None = None,
    width: int = 64,
) -> Classifier:
    """Makes ResNet for photographs.

    Args:
        depth: 18, 34 or 50.
        stem: 'large' (7 x 7 of stride 2, then a pool of stride 2) or 'small' (3 x 3 of stride 1);
            None means 'small' below 64 pixels, else 'large'.
        width: channels of the first stage; each later stage has twice as many as the one before.
    """
    if depth not in STAGES:
        raise UserError(f'depth={depth} must be one of {", ".join(map(str, STAGES))}')
    stem = stem or ('small' if is_small(input_shape) else 'large')
    if stem not in ('large', 'small'):
        raise UserError(f"stem={stem!r} must be 'large' or 'small'")
    counts, bottleneck = STAGES[depth]
    if stem == 'large':
        layers = _conv_bn(make, '1', input_shape[-1], width, 7, 2)
        layers['relu'] = nnx.relu
        layers['maxpool'] = make.max_pool((3, 3), 2, padding=1)
    else:
        layers = _conv_bn(make, '1', input_shape[-1], width, 3, 1)
        layers['relu'] = nnx.relu
    channels = width
    for stage, count in enumerate(counts, start=1):
        inner = width * 2 ** (stage - 1)
        out = inner * 4 if bottleneck else inner
        blocks = {}
        for i in range(count):
            strides = 2 if stage > 1 and i == 0 else 1
            shortcut = None
            if strides > 1 or channels != out:
                shortcut = nn.Layers(_conv_bn(make, '', channels, out, 1, strides))
            if bottleneck:
                branch = [(channels, inner, 1, 1), (inner, inner, 3, strides), (inner, out, 1, 1)]
            else:
                branch = [(channels, inner, 3, strides), (inner, out, 3, 1)]
            blocks[f'block{i}'] = _block(make, branch, shortcut)
            channels = out
        layers[f'layer{stage}'] = nn.Layers(blocks)
    layers['pool'] = nn.GlobalAvgPool()
    layers['fc'] = make.linear(channels, num_classes)
    theirs = Counterpart(torchvision_names) if stem == 'large' else None
    return Classifier(nn.Layers(layers), input_shape, num_classes, torchvision=theirs)


def torchvision_names(layers: Sequence[str]) -> dict[str, str]:
    """Maps the names of layers to torchvision's, whose blocks are numbered and reuse one ReLU."""
    names = {}
    for name in layers:
        theirs = name.replace('.block', '.').replace('.shortcut', '.downsample')
        theirs = theirs.replace('downsample.conv', 'downsample.0')
        theirs = theirs.replace('downsample.bn', 'downsample.1')
        if '.relu' not in name:
            names[name] = 'avgpool' if name == 'pool' else theirs
    return names


def cifar_resnet(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    depth: int = 20,
    width: int = 16,
) -> Classifier:
    """Makes the paper's ResNet for CIFAR-10.

    Args:
        depth: 6 n + 2 for n blocks in each of three stages.
        width: channels of the first stage; each later stage has twice as many as the one before.
    """
    if depth < 8 or (depth - 2) % 6:
        raise UserError(f'depth={depth} must be 6 n + 2: 8, 14, 20, 32, 44, 56, 110, ...')
    layers = _conv_bn(make, '1', input_shape[-1], width, 3, 1)
    layers['relu'] = nnx.relu
    channels = width
    for stage in (1, 2, 3):
        features = width * 2 ** (stage - 1)
        blocks = {}
        for i in range((depth - 2) // 6):
            strides = 2 if stage > 1 and i == 0 else 1
            shortcut = None
            if channels != features:
                shortcut = nn.Layers({'subsample': Subsample(strides, features - channels)})
            branch = [(channels, features, 3, strides), (features, features, 3, 1)]
            blocks[f'block{i}'] = _block(make, branch, shortcut)
            channels = features
        layers[f'layer{stage}'] = nn.Layers(blocks)
    layers['pool'] = nn.GlobalAvgPool()
    layers['fc'] = make.linear(channels, num_classes)
    return Classifier(nn.Layers(layers), input_shape, num_classes)


def _conv_bn(
    make: LayerFactory, number: str, channels: int, features: int, window: int, strides: int
) -> dict[str, Any]:
    return {
        f'conv{number}': make.conv(
            channels,
            features,
            (window, window),
            strides=strides,
            padding=window // 2,
            use_bias=False,
            kernel_init=CONV_INIT,
        ),
        f'bn{number}': make.batch_norm(features),
    }


def _block(
    make: LayerFactory, branch: Sequence[tuple[int, int, int, int]], shortcut: nn.Layers | None
) -> nn.Residual:
    """Makes a block of convolutions (in, out, window, strides) with batch norm and ReLU.

    ReLU follows every convolution but the last, and the sum.
    """
    layers = {}
    for i, convolution in enumerate(branch, start=1):
        layers |= _conv_bn(make, str(i), *convolution)
        if i < len(branch):
            layers[f'relu{i}'] = nnx.relu
    return nn.Residual(layers, shortcut, nnx.relu)

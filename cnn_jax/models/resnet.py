"""ResNet, ResNeXt, SE-ResNet, and the CIFAR ResNets (-20, -32, -44, -56, -110).

He et al. 2015, "Deep Residual Learning for Image Recognition", arXiv:1512.03385. ResNeXt, whose
3 x 3 convolutions have groups: Xie et al. 2017, "Aggregated Residual Transformations for Deep
Neural Networks", arXiv:1611.05431. SE-ResNet, with squeeze-and-excitation at the end of each
branch: Hu et al. 2018, "Squeeze-and-Excitation Networks", arXiv:1709.01507.

`resnet` is torchvision's form of table 1 of the first paper (in bottlenecks the 3 x 3 convolution
has the stride, not the first 1 x 1). SE-ResNet-50 has the stride where that paper has it. For
images below 64 pixels it uses the customary small stem: one 3 x 3 convolution of stride 1 and no
pool. `cifar_resnet` is the network of section 4.2, with the parameter-free shortcut (option A).

    |                   | input         | classes | parameters | MACs    |
    |-------------------|---------------|---------|------------|---------|
    | ResNet-18         | 224 x 224 x 3 |    1000 | 11,689,512 |  1.81 G | as stated by torchvision
    | ResNet-34         | 224 x 224 x 3 |    1000 | 21,797,672 |  3.66 G |
    | ResNet-50         | 224 x 224 x 3 |    1000 | 25,557,032 |  4.09 G |
    | ResNet-101        | 224 x 224 x 3 |    1000 | 44,549,160 |  7.80 G |
    | ResNet-152        | 224 x 224 x 3 |    1000 | 60,192,808 | 11.51 G |
    | ResNeXt-50 32x4d  | 224 x 224 x 3 |    1000 | 25,028,904 |  4.23 G |
    | ResNeXt-101 32x8d | 224 x 224 x 3 |    1000 | 88,791,336 | 16.41 G |
    | SE-ResNet-50      | 224 x 224 x 3 |    1000 | 28,088,024 |  3.86 G | 3.87 G in the paper
    | ResNet-18         | 32 x 32 x 3   |      10 | 11,173,962 |  0.56 G |
    | ResNet-20         | 32 x 32 x 3   |      10 |    269,722 |  40.6 M | 0.27 M: paper, table 6

SE-ResNet-50 in the paper (section 4, table 2) includes squeezing and scaling.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import Classifier, Counterpart, LayerFactory, choose_stem

# Depth: blocks per stage, and whether they are bottlenecks (1 x 1, 3 x 3, 1 x 1). The paper does
# not have 26, the smallest with bottlenecks.
STAGES = {
    18: ((2, 2, 2, 2), False),
    26: ((2, 2, 2, 2), True),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}

CONV_INIT = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Subsample(nnx.Module):
    """Takes every `strides`-th position of both axes and appends `extra` channels of zeros."""

    def __init__(self, strides: int, extra: int):
        self.strides = strides
        self.extra = extra

    def __call__(self, x: jax.Array) -> jax.Array:
        # Indexing would be a gather if the size of the batch is symbolic.
        x = lax.slice(x, [0] * 4, x.shape, (1, self.strides, self.strides, 1))
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.extra)))


def resnet(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    depth: int = 50,
    stem: str | None = None,
    width: int = 64,
    groups: int = 1,
    group_width: int | None = None,
    stride_window: int = 3,
    reduction: int = 0,
) -> Classifier:
    """Makes ResNet for photographs.

    Args:
        depth: 18, 34 (blocks of two 3 x 3 convolutions), 26, 50, 101 or 152 (bottlenecks).
        stem: 'large' (7 x 7 of stride 2, then a pool of stride 2) or 'small' (3 x 3 of stride 1);
            None means 'small' below 64 pixels, else 'large'.
        width: channels of the first stage; each later stage has twice as many as the one before.
            Bottlenecks return four times as many.
        groups: groups of the 3 x 3 convolution of a bottleneck; ResNeXt has 32.
        group_width: channels in each of these groups in the first stage; None means `width`.
        stride_window: side of the convolution of a bottleneck that has the stride: 3 or 1.
        reduction: if not 0, each branch ends with squeeze-and-excitation, whose hidden layer has
            as many channels as the branch, divided by `reduction`.
    """
    if depth not in STAGES:
        raise UserError(f'depth={depth} must be one of {", ".join(map(str, STAGES))}')
    stem = choose_stem(stem, input_shape)
    if stride_window not in (1, 3):
        raise UserError(f'stride_window={stride_window} must be 1 or 3')
    counts, bottleneck = STAGES[depth]
    if not bottleneck and (groups, group_width, stride_window) != (1, None, 3):
        raise UserError(
            f'depth={depth} has no bottlenecks, so groups, group_width and stride_window '
            'must keep their defaults'
        )
    if stem == 'large':
        layers = _conv_bn(make, '1', input_shape[-1], width, 7, 2)
        layers['relu'] = nnx.relu
        layers['maxpool'] = make.max_pool((3, 3), 2, padding=1)
    else:
        layers = _conv_bn(make, '1', input_shape[-1], width, 3, 1)
        layers['relu'] = nnx.relu
    channels = width
    for stage, count in enumerate(counts, start=1):
        inner = groups * (group_width or width) * 2 ** (stage - 1)
        out = width * 2 ** (stage - 1) * (4 if bottleneck else 1)
        blocks = {}
        for i in range(count):
            strides = 2 if stage > 1 and i == 0 else 1
            shortcut = None
            if strides > 1 or channels != out:
                shortcut = nn.Layers(_conv_bn(make, '', channels, out, 1, strides))
            if bottleneck:
                first, second = (1, strides) if stride_window == 3 else (strides, 1)
                branch = [
                    (channels, inner, 1, first),
                    (inner, inner, 3, second, groups),
                    (inner, out, 1, 1),
                ]
            else:
                branch = [(channels, out, 3, strides), (out, out, 3, 1)]
            blocks[f'block{i}'] = _block(make, branch, shortcut, reduction)
            channels = out
        layers[f'layer{stage}'] = nn.Layers(blocks)
    layers['pool'] = nn.GlobalAvgPool()
    layers['fc'] = make.linear(channels, num_classes)
    in_torchvision = stem == 'large' and stride_window == 3 and not reduction
    theirs = Counterpart(torchvision_names) if in_torchvision else None
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
    make: LayerFactory,
    number: str,
    channels: int,
    features: int,
    window: int,
    strides: int,
    groups: int = 1,
) -> dict[str, Any]:
    return {
        f'conv{number}': make.conv(
            channels,
            features,
            (window, window),
            strides=strides,
            padding=window // 2,
            feature_group_count=groups,
            use_bias=False,
            kernel_init=CONV_INIT,
        ),
        f'bn{number}': make.batch_norm(features),
    }


def _block(
    make: LayerFactory,
    branch: Sequence[tuple[int, ...]],
    shortcut: nn.Layers | None,
    reduction: int = 0,
) -> nn.Residual:
    """Makes a block of convolutions (in, out, window, strides[, groups]) with batch norm and ReLU.

    ReLU follows every convolution but the last, and the sum.
    """
    layers = {}
    for i, convolution in enumerate(branch, start=1):
        layers |= _conv_bn(make, str(i), *convolution)
        if i < len(branch):
            layers[f'relu{i}'] = nnx.relu
    if reduction:
        out = branch[-1][1]
        layers['se'] = make.squeeze_excitation(out, max(1, out // reduction))
    return nn.Residual(layers, shortcut, nnx.relu)

"""The block that MobileNetV2, MobileNetV3 and EfficientNet share.

An inverted residual block with a linear bottleneck (Sandler et al. 2018, arXiv:1801.04381,
section 3): a 1 x 1 convolution to many channels, a depthwise convolution, and a 1 x 1 convolution
back to few, without an activation. MobileNetV3 adds squeeze-and-excitation after the depthwise
convolution, EfficientNet adds stochastic depth. MobileNet has the depthwise convolution alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import LayerFactory
from cnn_jax.models.torchvision_names import positions

CONV_INIT = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')

Activation = Callable[[jax.Array], jax.Array]


def conv_bn(
    make: LayerFactory,
    channels: int,
    features: int,
    window: int,
    *,
    strides: int = 1,
    groups: int = 1,
    act: Activation | None = None,
    norm: Mapping[str, float] | None = None,
) -> nn.Layers:
    """Makes a convolution with batch norm, and an activation that is named after its function.

    Args:
        channels, features: number of input and output channels.
        window, strides: side of the window and step on both axes; the padding is window // 2.
        groups: number of groups: 1, or `channels` for a depthwise convolution.
        act: activation function; None means none.
        norm: options of batch norm other than the factory's.
    """
    layers: dict[str, Any] = {
        'conv': make.conv(
            channels,
            features,
            (window, window),
            strides=strides,
            padding=window // 2,
            use_bias=False,
            feature_group_count=groups,
            # in a depthwise convolution, He's fan-out is the window size alone
            kernel_init=CONV_INIT
            if groups == 1
            else nnx.initializers.normal((2 / window**2) ** 0.5),
        ),
        'bn': make.batch_norm(features, **(norm or {})),
    }
    if act is not None:
        layers[act.__name__] = act
    return nn.Layers(layers)


def inverted_residual(
    make: LayerFactory,
    channels: int,
    expanded: int,
    features: int,
    window: int,
    *,
    strides: int,
    act: Activation,
    squeeze: Callable[[int], nn.SqueezeExcitation] | None = None,
    drop_rate: float = 0.0,
    norm: Mapping[str, float] | None = None,
) -> nn.Layers:
    """Makes one block. It has a shortcut if its input and its result have the same shape.

    Args:
        channels, expanded, features: number of channels of the input, between the 1 x 1
            convolutions, and of the result. The first 1 x 1 convolution is omitted where it would
            not expand.
        window, strides: of the depthwise convolution.
        act: activation after the first two convolutions.
        squeeze: makes the squeeze-and-excitation for `expanded` channels.
        drop_rate: rate of stochastic depth of a block with a shortcut.
        norm: options of batch norm other than the factory's.
    """
    layers: dict[str, Any] = {}
    if expanded != channels:
        layers['expand'] = conv_bn(make, channels, expanded, 1, act=act, norm=norm)
    layers['depthwise'] = conv_bn(
        make, expanded, expanded, window, strides=strides, groups=expanded, act=act, norm=norm
    )
    if squeeze is not None:
        layers['squeeze'] = squeeze(expanded)
    layers['project'] = conv_bn(make, expanded, features, 1, norm=norm)
    if strides > 1 or channels != features:
        return nn.Layers(layers)
    if drop_rate:
        layers['drop'] = make.stochastic_depth(drop_rate)
    return nn.Residual(layers)


def round_channels(channels: float) -> int:
    """Returns the multiple of 8 nearest to `channels`: at least 8, and at least 90 % of it.

    This rounding is not in the papers, but in the authors' code for all three networks.
    """
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def check_width(width: float) -> None:
    """Raises UserError unless `width`, the factor of all channel counts, is positive."""
    if width <= 0:
        raise UserError(f'width={width} must be positive')


def torchvision_names(layers: Sequence[str], inside: str = 'block') -> dict[str, str]:
    """Maps the names of layers to torchvision's, as `features.0.0` or `classifier.0`.

    Args:
        layers: the layers before 'pool' become modules of `features`, those after it of
            `classifier`.
        inside: name of the module that holds a block's layers without its shortcut.
    """
    place = positions(layers)
    names: dict[str, str] = {}
    for name in sorted(layers, key=len):  # a block before the layers in it
        block, _, own = name.rpartition('.')
        if not block:
            after = place[name] - place['pool']
            names[name] = f'classifier.{after - 1}' if after > 0 else f'features.{place[name]}'
        elif own in ('expand', 'depthwise', 'squeeze', 'project'):
            names[name] = f'{names[block]}.{inside}.{place[name]}'
        else:
            own = {'fc1': 'fc1', 'fc2': 'fc2', 'drop': 'stochastic_depth'}.get(own, place[name])
            names[name] = f'{names[block]}.{own}'
    names['pool'] = 'avgpool'
    return {name: names[name] for name in layers}

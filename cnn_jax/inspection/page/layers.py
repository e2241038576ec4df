"""The layers of a model in order of execution, where their inputs come from, and their windows."""

import dataclasses
import math
from collections.abc import Generator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnn_jax import nn
from cnn_jax.inspection import layers as convolutions
from cnn_jax.ops.pool_spec import PoolSpec, make_spec
from cnn_jax.ops.spec import ConvSpec

INPUT = 'input'  # the name of what the first layer reads

_MEANINGS = {
    nn.Flatten: 'the same numbers in a row: rows, then columns, then channels',
    nnx.Linear: 'y = x W + b: every output sees every input',
    nnx.BatchNorm: '(x − mean) / √(variance + ε) · scale + bias, per channel, with the statistics '
    'of the training',
    nnx.LayerNorm: '(x − mean) / √(variance + ε) · scale + bias, with the statistics of the '
    'channels at each position',
    nnx.Dropout: 'passes its input on; in training it sets random elements to 0',
    nn.StochasticDepth: 'passes its input on; in training it skips the branch at random',
    nn.Residual: 'the result of the branch plus its input (or the shortcut of its input)',
    nn.Concat: 'the results of all branches, one after the other along the channels',
    nn.SqueezeExcitation: 'scales every channel by a factor computed from the means of all',
}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of a model.

    Attributes:
        name: as in the model's `intermediates`.
        module: the layer: a module or a function of one array.
        source: name of the layer whose result it reads, or `INPUT`.
    """

    name: str
    module: Any
    source: str

    @property
    def type(self) -> str:
        named = hasattr(self.module, '__name__') and not isinstance(self.module, nnx.Module)
        return self.module.__name__ if named else type(self.module).__name__

    @property
    def is_relu(self) -> bool:
        return self.module in (nnx.relu, jax.nn.relu)

    @property
    def meaning(self) -> str:
        """What the layer computes, in a line; '' if unknown."""
        if self.is_relu:
            return 'y = max(x, 0)'
        kinds = type(self.module).__mro__
        return next((_MEANINGS[kind] for kind in kinds if kind in _MEANINGS), '')


def in_order(
    block: nn.Layers, prefix: str = '', source: str = INPUT
) -> Generator[Layer, None, str]:
    """Yields every layer of a chain in order, and returns the name of its result.

    A block that computes something of its own, as `nn.Residual` does, follows its layers.
    """
    first = source
    for name, module in block.items():
        path = prefix + name
        before = first if isinstance(block, nn.Concat) else source
        source = path
        if isinstance(module, nn.Layers):
            inner = yield from in_order(module, f'{path}.', before)
            if type(module).__call__ is nn.Layers.__call__:
                source = inner
                continue
        yield Layer(path, module, before)
    if isinstance(block, nn.Residual) and block.has_shortcut:
        yield from in_order(block.shortcut, f'{prefix}shortcut.', first)
    return source


def owner(model: nnx.Module, name: str) -> tuple[nnx.Module, str]:
    """Returns the module that has a layer as its attribute, and the name of the attribute."""
    *path, attribute = name.split('.')
    module = model.layers
    for part in path:
        module = getattr(module, part)
    return module, attribute


@dataclasses.dataclass(frozen=True)
class Windows:
    """Where output (i, j) of a convolution or a pool reads: taps at i · stride − padding + t d.

    Attributes:
        kind: 'convolution', 'maximum' or 'mean'.
        size, strides, dilation: per axis.
        padding: before the first element, per axis.
        groups: of a convolution, else 1.
        divisors: of a mean, (*output size) or one number; else None.
        spec: of a convolution, for one example; else None.
        implementation: name of the kernel that computes a convolution; else ''.
    """

    kind: str
    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int = 1
    divisors: np.ndarray | None = None
    spec: ConvSpec | None = None
    implementation: str = ''


def windows(module: Any, shape: Sequence[int]) -> Windows | None:
    """Returns the windows of a layer with an input (H, W, C); None if the page cannot show them.

    Not shown are transposed convolutions, convolutions that compute more than `nn.Conv` does, and
    those whose input is cropped, has holes or is padded with other than zeros.
    """
    if len(shape) != 3:
        return None
    if isinstance(module, nnx.Conv):
        return _convolution(module, tuple(shape))
    spec = _pool(module, tuple(shape))
    if spec is None:
        return None
    is_mean = isinstance(module, nn.AvgPool | nn.GlobalAvgPool)
    divisors = None
    if is_mean:
        divisors = np.broadcast_to(spec.divisors(), (*spec.output_size, 1))[..., 0]
    return Windows(
        kind='mean' if is_mean else 'maximum',
        size=spec.window,
        strides=spec.strides,
        dilation=spec.dilation,
        padding=tuple(lo for lo, _ in spec.padding),
        divisors=divisors,
    )


def _convolution(module: nnx.Conv, shape: tuple[int, ...]) -> Windows | None:
    if type(module).__call__ not in (nn.Conv.__call__, nnx.Conv.__call__):
        return None
    found = convolutions.forward_convolutions(module, shape)
    if len(found) != 1:
        return None
    spec = found[0].spec
    if spec.x_shape[1:] != shape or math.prod(spec.input_dilation) != 1:
        return None
    return Windows(
        kind='convolution',
        size=spec.window,
        strides=spec.strides,
        dilation=spec.dilation,
        padding=tuple(lo for lo, _ in spec.padding),
        groups=spec.groups,
        spec=spec,
        implementation=found[0].implementation,
    )


def _pool(module: Any, shape: tuple[int, ...]) -> PoolSpec | None:
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    if isinstance(module, nn.GlobalAvgPool | nn.GlobalMaxPool):
        return make_spec(x, shape[:-1], None, 0, 1, False)
    if not isinstance(module, nn.MaxPool | nn.AvgPool):
        return None
    return make_spec(
        x,
        module.window_shape,
        module.strides,
        module.padding,
        module.dilation,
        module.ceil_mode,
        getattr(module, 'count_include_pad', True),
    )


def kernel_and_bias(module: nnx.Conv) -> tuple[np.ndarray, np.ndarray]:
    """Returns the float32 kernel (*window, in // groups, out) and bias (out,) that a layer uses."""
    if isinstance(module, nn.Conv):
        kernel = module.effective_kernel()
    else:
        kernel = module.kernel[...]
        kernel = kernel if module.mask is None else kernel * module.mask
    bias = np.zeros(kernel.shape[-1], np.float32) if module.bias is None else module.bias[...]
    return np.asarray(kernel, np.float32), np.asarray(bias, np.float32)

"""Computes a convolution as an unrolled sum over the taps of shifted views.

In a depthwise convolution, each tap is an elementwise multiplication, and XLA fuses the whole sum
into one pass over the data. In that case this kernel is faster than all other kernels made of JAX
operations. Otherwise each tap is a matrix product, as in 'scan' but without the loop.
"""

import functools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnn_jax.ops.kernels import depthwise, polyphase
from cnn_jax.ops.kernels.views import (
    as_words,
    dilate_and_pad,
    from_words,
    tap_slices,
    transpose,
)
from cnn_jax.ops.spec import ConvSpec, accumulator

Array = jax.Array

MOST_TAPS = 256

SMALL_INTEGERS = 'float32'


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if math.prod(spec.window) > MOST_TAPS:
        return f'writes out every tap: needs a window of at most {MOST_TAPS}, got {spec.window}'
    is_derived = op == 'filter_grad' or (op == 'input_grad' and polyphase.unsupported(spec))
    if is_derived and not jnp.issubdtype(spec.dtype, jnp.floating):
        return f'derives its {op}, which needs floating point, got {spec.dtype}'
    return None


def forward(x: Array, w: Array, spec: ConvSpec) -> Array:
    dtype = accumulator(spec.dtype)
    x = from_words(dilate_and_pad(as_words(x), spec), str(x.dtype)).astype(dtype)
    multiply = _tap_product(spec)
    grouped = (*spec.y_shape[:-1], spec.groups, spec.in_features // spec.groups)
    kernels = _grouped_kernels(w.astype(dtype), spec)
    products = (
        multiply(x[(slice(None), *taps)].reshape(grouped), kernel)
        for taps, kernel in zip(tap_slices(spec), kernels, strict=True)
    )
    y = functools.reduce(operator.add, products)
    return y.reshape(spec.y_shape).astype(spec.dtype)


def input_grad(dy: Array, w: Array, spec: ConvSpec) -> Array:
    if polyphase.unsupported(spec):
        wide = spec.replace(dtype=str(accumulator(spec.dtype)))
        dx = transpose(lambda x: forward(x, w, wide), spec.x_shape, dy.astype(wide.dtype))
        return dx.astype(spec.dtype)
    return polyphase.input_grad(dy, w, spec, forward)


def filter_grad(x: Array, dy: Array, spec: ConvSpec) -> Array:
    if depthwise.suits(spec):
        return depthwise.filter_grad(x, dy, spec)
    wide = spec.replace(dtype=str(accumulator(spec.dtype)))
    x, dy = x.astype(wide.dtype), dy.astype(wide.dtype)
    dw = transpose(lambda w: forward(x, w, wide), spec.kernel_shape, dy)
    return dw.astype(spec.dtype)


def _tap_product(spec: ConvSpec) -> Callable[[Array, Array], Array]:
    """Returns a function of view (..., groups, c) and kernel (c, groups, o) -> (..., groups, o)."""
    if spec.is_depthwise:
        return lambda view, kernel: view * jnp.expand_dims(kernel[0], range(view.ndim - 2))
    return lambda view, kernel: jnp.einsum(
        '...gc,cgo->...go', view, kernel, precision=spec.precision
    )


def _grouped_kernels(w: Array, spec: ConvSpec) -> Array:
    """Reshapes w to one (c, groups, o) kernel per tap."""
    return w.reshape(-1, w.shape[-2], spec.groups, spec.out_features // spec.groups)

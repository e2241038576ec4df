"""Adaptive pooling: computes PyTorch's windows from a given output size.

Along an axis of size n, window i of m covers  floor(i n / m) <= position < ceil((i + 1) n / m).
The windows cover the input evenly, and overlap by up to one element if m does not divide n.
Here x is (*batch, *size, features), and `out` is the spatial size of the output.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops.pool_kernels import winners as win
from cnn_jax.ops.spec import accumulator

Array = jax.Array


def windows(n: int, m: int) -> list[tuple[int, int]]:
    """Returns the range [start, end) of each of the m windows over n positions."""
    return [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


@functools.partial(jax.jit, static_argnums=1, inline=True)
def average(x: Array, out: tuple[int, ...]) -> Array:
    total = x.astype(accumulator(x.dtype))
    counts = np.ones(())
    for axis, m in _last_first(out):
        spans = windows(x.shape[axis], m)
        total = jnp.concatenate(
            [_view(total, span, axis).sum(axis, keepdims=True) for span in spans], axis
        )
        counts = np.multiply.outer([end - start for start, end in spans], counts)
    counts = np.array(counts[..., None], total.dtype, ndmin=total.ndim)
    return (total / counts).astype(x.dtype)


@functools.partial(jax.jit, static_argnums=1, inline=True)
def maximum(x: Array, out: tuple[int, ...]) -> Array:
    return _differentiable_maximum(x, out)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _differentiable_maximum(x: Array, out: tuple[int, ...]) -> Array:
    y = x.astype(accumulator(x.dtype))
    for axis, m in _last_first(out):
        spans = windows(y.shape[axis], m)
        y = jnp.concatenate([_view(y, span, axis).max(axis, keepdims=True) for span in spans], axis)
    return y.astype(x.dtype)


@_differentiable_maximum.defjvp
def _(out: tuple[int, ...], primals: Any, tangents: Any) -> tuple[Array, Any]:
    (x,), (dx,) = primals, tangents
    y = _differentiable_maximum(x, out)
    if dx.dtype == jax.dtypes.float0:  # integer input has no tangent
        return y, np.zeros(y.shape, jax.dtypes.float0)
    return y, _pick(dx, _winners(lax.stop_gradient(x), out), out)


@functools.partial(jax.jit, static_argnums=1, inline=True)
def indices(x: Array, out: tuple[int, ...]) -> Array:
    """Returns the row-major index of each maximum in its plane."""
    plane = win.numbers(x.shape, tuple(range(-1 - len(out), -1)))
    return _pick(plane, _winners(lax.stop_gradient(x), out), out)


def _winners(x: Array, out: tuple[int, ...]) -> list[list[Array]]:
    """Returns the winner's position in each window, per axis (last axis first) and per window."""
    x, codes = x.astype(accumulator(x.dtype)), []
    for axis, m in _last_first(out):
        views = [_view(x, span, axis) for span in windows(x.shape[axis], m)]
        best, numbers = zip(*(win.of_axes(view, (axis,)) for view in views), strict=True)
        x = jnp.concatenate(best, axis)
        codes.append(list(numbers))
    return codes


def _pick(values: Array, codes: list[list[Array]], out: tuple[int, ...]) -> Array:
    """Returns the elements of `values` at the winners; linear in `values`."""
    y = values.astype(accumulator(values.dtype))
    for (axis, m), numbers in zip(_last_first(out), codes, strict=True):
        picked = []
        for span, number in zip(windows(y.shape[axis], m), numbers, strict=True):
            view = _view(y, span, axis)
            taps = win.numbers(view.shape, (axis,), number.dtype)
            chosen = jnp.where(number == taps, view, 0)
            picked.append(chosen.sum(axis, keepdims=True, dtype=y.dtype))
        y = jnp.concatenate(picked, axis)
    return y.astype(values.dtype)


def _last_first(out: tuple[int, ...]) -> list[tuple[int, int]]:
    """Returns (axis, output size) per spatial axis, last axis first.

    In this order, the first maximum in the column of row maxima is the first in row-major order.
    """
    return [(-2 - i, m) for i, m in enumerate(reversed(out))]


def _view(x: Array, span: tuple[int, int], axis: int) -> Array:
    return lax.slice_in_dim(x, *span, axis=axis)

"""Pooling with XLA's reduce_window, for windows of any size.

XLA's gradient of a maximum, select-and-scatter, is not deterministic on every device. This module
uses a loop over the taps instead, which is a short program even for a large window.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops.pool_kernels import winners as win
from cnn_jax.ops.pool_spec import PoolSpec
from cnn_jax.ops.spec import accumulator

Array = jax.Array


def supports(spec: PoolSpec) -> str | None:
    del spec
    return None


def maximum(x: Array, spec: PoolSpec) -> Array:
    return _reduce(x, win.lowest(x.dtype), lax.max, spec)


def total(x: Array, spec: PoolSpec) -> Array:
    dtype = accumulator(x.dtype)
    return _reduce(x.astype(dtype), np.zeros((), dtype), lax.add, spec)


def winners(x: Array, spec: PoolSpec) -> Array:
    """Returns the row-major numbers of the maxima, -1 for a window that sees only padding."""
    padded = _pad(x, spec, win.lowest(x.dtype))

    def visit(carry, tap):
        best, code = carry
        number, start, inside = tap
        view = _view(padded, start, spec)
        wins = _outer(inside, x.ndim) & ((code < 0) | (view > best) | (view != view))
        return (jnp.where(wins, view, best), jnp.where(wins, number, code)), None

    numbers, starts, inside = _taps(spec)
    first = _view(padded, starts[0], spec)
    nobody = jnp.where(first > first, 0, -1).astype(np.int32)  # -1, with the sharding of x
    return lax.scan(visit, (first, nobody), (numbers, starts, inside))[0][1]


def pick(values: Array, codes: Array, spec: PoolSpec) -> Array:
    """Returns the elements of `values` at the winners, 0 if there is none; linear in `values`."""
    dtype = accumulator(values.dtype)
    padded = _pad(values.astype(dtype), spec, np.zeros((), dtype))

    def visit(total, tap):
        number, start = tap
        return total + jnp.where(codes == number, _view(padded, start, spec), 0), None

    numbers, starts, _ = _taps(spec)
    nothing = jnp.where(codes > codes, 1, 0).astype(padded.dtype)  # 0, with the sharding of codes
    return lax.scan(visit, nothing, (numbers, starts))[0].astype(values.dtype)


def _reduce(x: Array, start: np.ndarray, operation, spec: PoolSpec) -> Array:
    ones, nothing = (1,) * (x.ndim - 1 - spec.ndim), ((0, 0),) * (x.ndim - 1 - spec.ndim)
    padding = spec.padding
    if spec.ceil_mode:
        padding = tuple((lo, max(hi, 0)) for lo, hi in spec.covered)
    return lax.reduce_window(
        x,
        start,
        operation,
        window_dimensions=(*ones, *spec.window, 1),
        window_strides=(*ones, *spec.strides, 1),
        padding=(*nothing, *padding, (0, 0)),
        window_dilation=(*ones, *spec.dilation, 1),
    )


def _pad(x: Array, spec: PoolSpec, fill: np.ndarray) -> Array:
    rest = [(0, 0, 0)] * (x.ndim - 1 - spec.ndim)
    config = [*rest, *((*pair, 0) for pair in spec.covered), (0, 0, 0)]
    return lax.pad(x, fill, config)


def _taps(spec: PoolSpec) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Returns three values per tap, in row-major order.

    They are the tap's number, its position in the padded input for the first window, and, per axis,
    bool (output,): which windows read the input at this tap.
    """
    taps = np.array(list(itertools.product(*map(range, spec.window))), np.int32)
    inside = [spec.inside(axis).T[taps[:, axis]] for axis in range(spec.ndim)]
    return np.arange(len(taps), dtype=np.int32), taps * np.array(spec.dilation, np.int32), inside


def _view(padded: Array, start: Array, spec: PoolSpec) -> Array:
    """Returns the elements of one tap of every window."""
    reach = [(out - 1) * s + 1 for out, s in zip(spec.output_size, spec.strides, strict=True)]
    batch = padded.shape[: spec.axes[0]]
    zero: Any = np.int32(0)
    starts = [*[zero] * len(batch), *(start[axis] for axis in range(spec.ndim)), zero]
    view = lax.dynamic_slice(padded, starts, (*batch, *reach, padded.shape[-1]))
    ones = (1,) * len(batch)
    return lax.slice(view, [0] * view.ndim, view.shape, (*ones, *spec.strides, 1))


def _outer(inside: list[Array], ndim: int) -> Array:
    """Combines the axes of `inside` into bool (1, ..., *output_size, 1) with `ndim` axes."""
    alone = [
        jnp.expand_dims(along, [i for i in range(ndim) if i != ndim - 2 - axis])
        for axis, along in enumerate(reversed(inside))
    ]
    return functools.reduce(jnp.logical_and, alone)

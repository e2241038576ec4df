"""Pooling as a maximum or sum over shifted views, one view per tap, one axis after the other.

A 3 x 3 window costs 3 + 3 views instead of 9. The last axis is reduced first, so that the first
maximum in the column of row maxima is also the first in row-major order.
"""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops.pool_kernels import winners as win
from cnn_jax.ops.pool_spec import PoolSpec
from cnn_jax.ops.spec import accumulator

Array = jax.Array
Codes = tuple[Array, ...]

# More views would make a program that takes minutes to compile.
MOST_VIEWS = 64


def supports(spec: PoolSpec) -> str | None:
    if not spec.is_static:
        return f'needs spatial axes of static sizes, got {spec.input_size}'
    if sum(spec.window) > MOST_VIEWS:
        return f'needs at most {MOST_VIEWS} taps, one axis after the other, got {spec.window}'
    return None


def maximum(x: Array, spec: PoolSpec) -> Array:
    y = x.astype(accumulator(x.dtype))  # exact; XLA's CPU backend is slow on 16-bit floats
    fill = win.lowest(x.dtype).astype(y.dtype)
    for axis in _last_first(spec):
        taps = _taps(y, axis, spec, fill)
        y = taps[0]
        for tap in taps[1:]:
            y = jnp.maximum(y, tap)
    return y.astype(x.dtype)


def total(x: Array, spec: PoolSpec) -> Array:
    y = x.astype(accumulator(x.dtype))
    for axis in _last_first(spec):
        y = functools.reduce(operator.add, _taps(y, axis, spec, np.zeros((), y.dtype)))
    return y


def winners(x: Array, spec: PoolSpec) -> Codes:
    """Returns the number of the winning tap along each spatial axis, last axis first."""
    y = x.astype(accumulator(x.dtype))
    fill = win.lowest(x.dtype).astype(y.dtype)
    codes = []
    for axis in _last_first(spec):
        y, code = win.of_taps(_taps(y, axis, spec, fill), _first_inside(axis, spec, x.ndim))
        codes.append(code)
    return tuple(codes)


def pick(values: Array, codes: Codes, spec: PoolSpec) -> Array:
    """Returns the elements of `values` at the winners, 0 for winners in the padding.

    It is linear in `values`. It computes in the accumulator's dtype, because its transpose sums up
    to one term per window that contains an element.
    """
    y = values.astype(accumulator(values.dtype))
    for axis, code in zip(_last_first(spec), codes, strict=True):
        taps = _taps(y, axis, spec, np.zeros((), y.dtype))
        picked = (jnp.where(code == code.dtype.type(k), tap, 0) for k, tap in enumerate(taps))
        y = functools.reduce(operator.add, picked)
    return y.astype(values.dtype)


def _last_first(spec: PoolSpec) -> list[int]:
    return list(range(spec.ndim))[::-1]


def _taps(x: Array, axis: int, spec: PoolSpec, fill: np.ndarray) -> list[Array]:
    """Returns, for each tap t, element t of every window along a spatial axis."""
    config = [(0, 0, 0)] * x.ndim
    config[spec.axes[axis]] = (*spec.covered[axis], 0)
    x = lax.pad(x, fill, config)
    stride, reach = spec.strides[axis], (spec.output_size[axis] - 1) * spec.strides[axis] + 1
    starts = [t * spec.dilation[axis] for t in range(spec.window[axis])]
    return [lax.slice_in_dim(x, at, at + reach, stride, spec.axes[axis]) for at in starts]


def _first_inside(axis: int, spec: PoolSpec, ndim: int) -> np.ndarray:
    inside = spec.inside(axis)
    first = inside & (inside.cumsum(1) == 1)
    shape = [1] * ndim
    shape[spec.axes[axis]] = -1
    return first.T.reshape(spec.window[axis], *shape)

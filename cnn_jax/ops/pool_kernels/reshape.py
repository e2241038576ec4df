"""Pooling of windows without overlaps or gaps, by splitting each axis into (windows, window).

No data is copied, and the gradient writes every element of the input once.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.pool_kernels import winners as win
from cnn_jax.ops.pool_spec import PoolSpec
from cnn_jax.ops.spec import accumulator

Array = jax.Array

# Windows of up to this many elements are read element by element, because XLA turns that into fewer
# and faster loops than a reduction over interleaved axes.
UNROLLED = 32


def supports(spec: PoolSpec) -> str | None:
    if not spec.is_static:
        return f'needs spatial axes of static sizes, got {spec.input_size}'
    if spec.window != spec.strides:
        return f'needs strides equal to the window {spec.window}, got {spec.strides}'
    if any(pair != (0, 0) for pair in spec.padding):
        return f'needs padding 0, got {spec.padding}'
    if any(d != 1 for d in spec.dilation):
        return f'needs dilation 1, got {spec.dilation}'
    if any(hi > 0 for _, hi in spec.covered):
        return f'needs whole windows, ceil_mode adds one beyond the input size {spec.input_size}'
    return None


def maximum(x: Array, spec: PoolSpec) -> Array:
    y = _split(x.astype(accumulator(x.dtype)), spec)
    if math.prod(spec.window) > UNROLLED:
        return y.max(_axes(spec)).astype(x.dtype)
    first, *others = _taps(y, spec)
    for tap in others:
        first = jnp.maximum(first, tap)
    return first.astype(x.dtype)


def total(x: Array, spec: PoolSpec) -> Array:
    return _split(x.astype(accumulator(x.dtype)), spec).sum(_axes(spec))


def winners(x: Array, spec: PoolSpec) -> Array:
    """Returns the row-major numbers of the maxima, (*batch, *output_size, features)."""
    y = _split(x.astype(accumulator(x.dtype)), spec)
    if math.prod(spec.window) > UNROLLED:
        return lax.squeeze(win.of_axes(y, _axes(spec))[1], _axes(spec))
    return win.of_taps(_taps(y, spec))[1]


def pick(values: Array, codes: Array, spec: PoolSpec) -> Array:
    """Returns the elements of `values` at the winners; linear in `values`."""
    values = _split(values, spec)
    numbers = win.numbers(values.shape, _axes(spec), codes.dtype)
    return jnp.where(jnp.expand_dims(codes, _axes(spec)) == numbers, values, 0).sum(
        _axes(spec), dtype=values.dtype
    )


def _split(x: Array, spec: PoolSpec) -> Array:
    """Splits (*batch, *size, features) to (*batch, out, window, out, window, ..., features)."""
    pairs = list(zip(spec.output_size, spec.window, strict=True))
    used = [out * k for out, k in pairs]
    x = lax.slice(x, [0] * x.ndim, (*x.shape[: spec.axes[0]], *used, x.shape[-1]))
    for axis, pair in zip(spec.axes, pairs, strict=True):
        x = x.reshape(*x.shape[:axis], *pair, *x.shape[axis + 1 :])
    return x


def _axes(spec: PoolSpec) -> tuple[int, ...]:
    return tuple(range(-2 * spec.ndim, 0, 2))


def _taps(split: Array, spec: PoolSpec) -> list[Array]:
    return [
        split[(..., *itertools.chain(*((t, slice(None)) for t in tap)))]
        for tap in itertools.product(*map(range, spec.window))
    ]

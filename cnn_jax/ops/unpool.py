"""Unpooling: inverts max_pool for the elements that its indices refer to."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.errors import UserError, UserTypeError
from cnn_jax.ops import checks
from cnn_jax.ops.pool_spec import index_dtype, spatial_ndim
from cnn_jax.ops.types import ArrayLike, Size

Array = jax.Array


def max_unpool(
    x: ArrayLike,
    indices: ArrayLike,
    window: Size,
    strides: Size | None = None,
    padding: Size = 0,
    output_size: Size | None = None,
) -> Array:
    """Puts each element of x at the position of its maximum, and zeros elsewhere.

    If several elements have the same index, the last in row-major order is used and receives the
    gradient. (Overlapping windows produce such elements, all with the same value. PyTorch's
    gradient goes to all of them.)

    Args:
        x: (*batch, *pooled size, features).
        indices: integers of x's shape, as `max_pool(..., return_indices=True)` returns them.
        window, strides, padding: as passed to `max_pool`, with padding as ints.
        output_size: spatial size of the result; None means (n - 1) strides + window - 2 padding.
            It may differ from that default by less than a stride, because `max_pool` maps several
            sizes to the same n.

    Returns:
        (*batch, *output_size, features).

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
            This includes an index out of range if `indices` is known while tracing; otherwise,
            elements with an index out of range are dropped.
    """
    x, indices = checks.array(x, 'x'), checks.array(indices, 'indices')
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise UserTypeError(f'indices must be integers, got dtype {indices.dtype}')
    if indices.shape != x.shape:
        raise UserError(f'indices must have the shape of x, {x.shape}, got {indices.shape}')
    ndim = spatial_ndim(x, window, 'window')
    window = checks.per_axis(window, ndim, 'window')
    strides = window if strides is None else checks.per_axis(strides, ndim, 'strides')
    padding = checks.per_axis(padding, ndim, 'padding', minimum=0)
    size = x.shape[-1 - ndim : -1]
    default = tuple(
        (n - 1) * s + k - 2 * p for n, s, k, p in zip(size, strides, window, padding, strict=True)
    )
    if min(default) < 1:
        raise UserError(
            f'padding must not crop the whole output, got {padding} with window {window}'
        )
    output = default
    if output_size is not None:
        output = checks.per_axis(output_size, ndim, 'output_size')
        for axis, (m, usual, s) in enumerate(zip(output, default, strides, strict=True)):
            if abs(m - usual) >= s:
                raise UserError(
                    f'output_size on spatial axis {axis} must be from {max(usual - s + 1, 1)} to '
                    f'{usual + s - 1}, got {m}'
                )
    count = math.prod(output)
    _check_range(indices, count)
    index_dtype(count, 'output_size')
    return _scatter(x, indices, output)


def _check_range(indices: Array, count: int) -> None:
    if isinstance(indices, jax.core.Tracer) or indices.size == 0:
        return
    known = jax.device_get(indices)  # inside jit, JAX operations would be traced
    least, most = known.min(), known.max()
    if least < 0 or most >= count:
        raise UserError(
            f'indices must be from 0 to {count - 1}, the last position of the output; '
            f'got {least if least < 0 else most}'
        )


@functools.partial(jax.jit, static_argnames='output', inline=True)
def _scatter(x: Array, indices: Array, output: tuple[int, ...]) -> Array:
    batch_shape, count = x.shape[: -1 - len(output)], math.prod(output)
    lines = (*batch_shape, math.prod(x.shape[len(batch_shape) : -1]), x.shape[-1])
    place = jax.vmap(functools.partial(_place, count=count), -1, -1)
    for _ in batch_shape:
        place = jax.vmap(place)
    return place(x.reshape(lines), indices.reshape(lines)).reshape(*batch_shape, *output, lines[-1])


def _place(x: Array, at: Array, count: int) -> Array:
    """Scatters one plane: elements (pooled,) with their indices to (count,)."""
    dtype = index_dtype(count, 'output_size')
    if at.dtype.itemsize < dtype.itemsize:  # the narrower dtype may be unable to hold `count`
        at = at.astype(dtype)
    # Negative indices are out of range too, but jnp would count them from the end.
    at = jnp.where((at < 0) | (at >= count), count, at).astype(dtype)
    # At most one element per position contributes to the sum, so its order does not matter.
    number = lax.iota(index_dtype(x.size, 'x'), x.size)
    last = jnp.full(count, -1, number.dtype).at[at].max(number, mode='drop')
    taken = last.at[at].get(mode='fill', fill_value=-1) == number
    return jnp.zeros(count, x.dtype).at[at].add(jnp.where(taken, x, 0), mode='drop')

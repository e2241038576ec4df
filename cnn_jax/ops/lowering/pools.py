"""Lowers JAX's own pools with the kernels of this package, where XLA:CPU is slow.

XLA:CPU runs the gradient of max pooling, `select_and_scatter_add`, and pools whose windows overlap
as loops over single elements, and sums bfloat16 at a tenth of the speed of float32.

The kernels of `max_pool` give the gradient to the same element, the first of several equal ones.
They differ only if a window contains a NaN; see `max_pool`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.kernels.native.transpose import natively
from cnn_jax.ops.lowering import rules
from cnn_jax.ops.pool import avg_pool, max_pool
from cnn_jax.ops.pool_kernels.reshape import UNROLLED


def reads(operand: Any, params: dict[str, Any]) -> tuple[int, ...] | None:
    """Returns the pooled axes, or None if the pools of this package do not support this one."""
    if not all(isinstance(n, int) for n in operand.shape) or 0 in operand.shape:
        return None
    if any(e > 1 for name in ('base_dilation', 'window_dilation') for e in params.get(name, ())):
        return None
    window, strides, padding = (
        params[name] for name in ('window_dimensions', 'window_strides', 'padding')
    )
    axes = tuple(i for i, k in enumerate(window) if k > 1 or strides[i] > 1)
    fits = all(max(padding[i]) < window[i] and min(padding[i]) >= 0 for i in axes)
    others = [i for i in range(len(window)) if i not in axes]
    if not 1 <= len(axes) <= 3 or len(others) < 2 or not fits:
        return None
    return axes if all(tuple(padding[i]) == (0, 0) for i in others) else None


def gradient(dy: jax.Array, x: jax.Array, axes: tuple[int, ...], params: dict[str, Any]):
    """Computes select_and_scatter_add: adds dy at the positions of the maxima of x."""
    into, back = _arrange(x.shape, axes)
    _, transpose = jax.vjp(lambda x: _pool(max_pool, x, axes, params), into(x))
    return back(transpose(into(dy))[0])


def forward(name: str, x: jax.Array, axes: tuple[int, ...], params: dict[str, Any]) -> jax.Array:
    """Computes reduce_window_max or reduce_window_sum (`name`)."""
    into, back = _arrange(x.shape, axes)
    if name == 'reduce_window_max':
        return back(_pool(max_pool, into(x), axes, params))
    return back(_pool(avg_pool, into(x), axes, params, divisor_override=1))


def _pool(pool: Any, x: jax.Array, axes: tuple[int, ...], params: dict[str, Any], **options: Any):
    window, strides, padding = (
        [params[name][i] for i in axes]
        for name in ('window_dimensions', 'window_strides', 'padding')
    )
    return pool(x, window, strides, [*map(tuple, padding)], **options)


def _arrange(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[Any, Any]:
    """Returns functions that rearrange the axes as (batch, *axes, features), and back."""
    first, *others = (i for i in range(len(shape)) if i not in axes)
    order = (first, *axes, *others)
    before = sorted(range(len(shape)), key=order.__getitem__)
    rest = [shape[i] for i in others]

    def into(x):
        x = lax.transpose(x, order)
        return x.reshape(*x.shape[: 1 + len(axes)], math.prod(rest))

    def back(y):
        return lax.transpose(y.reshape(*y.shape[:-1], *rest), before)

    return natively(into), natively(back)


def _is_slow(name: str, x: Any, axes: tuple[int, ...], params: dict[str, Any]) -> bool:
    window = [params['window_dimensions'][i] for i in axes]
    overlaps = any(params['window_strides'][i] < k for i, k in zip(axes, window, strict=True))
    is_maximum = name == 'reduce_window_max'
    is_channels_last = axes == tuple(range(1, 1 + len(axes)))
    # XLA writes the input of its reduction to memory, and fuses elementwise maxima with it.
    fuses = is_maximum and is_channels_last and not overlaps and math.prod(window) <= UNROLLED
    if x.dtype == jnp.bfloat16:
        return overlaps or fuses or not is_maximum
    return x.dtype == jnp.float32 and (fuses or (overlaps and len(axes) > 1 and is_channels_last))


def _scatter(platform: str, ctx: Any, dy: Any, x: Any, **params: Any) -> Any:
    is_maximum = params['select_prim'] is lax.ge_p
    axes = reads(ctx.avals_in[1], params) if is_maximum and rules.is_installed() else None
    if axes is None:
        return rules.originals[platform, lax.select_and_scatter_add_p](ctx, dy, x, **params)
    return rules.as_kernel(ctx, lambda dy, x: gradient(dy, x, axes, params), dy, x)


def _reduce(primitive: Any, platform: str, ctx: Any, x: Any, **params: Any) -> Any:
    axes = reads(ctx.avals_in[0], params) if rules.is_installed() else None
    if axes is None or not _is_slow(primitive.name, ctx.avals_in[0], axes, params):
        return rules.originals[platform, primitive](ctx, x, **params)
    return rules.as_kernel(ctx, lambda x: forward(primitive.name, x, axes, params), x)


rules.register(lax.select_and_scatter_add_p, 'cpu', _scatter)
for _primitive in (lax.reduce_window_max_p, lax.reduce_window_sum_p):
    rules.register(_primitive, 'cpu', functools.partial(_reduce, _primitive))

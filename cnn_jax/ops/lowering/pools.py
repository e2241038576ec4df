"""Lowers JAX's max pooling gradient, `select_and_scatter_add`, with the kernels of this package.

XLA:CPU runs it as a loop over single elements. The kernels of `max_pool` pick the same element, the
first of several equal ones. They differ only if a window contains a NaN; see `max_pool`.
"""

from typing import Any

import jax
from jax import lax

from cnn_jax.ops.lowering import rules
from cnn_jax.ops.pool import max_pool


def reads(operand: Any, params: dict[str, Any]) -> tuple[int, ...] | None:
    """Returns the pooled axes, or None if `max_pool` does not support this pool."""
    if params['select_prim'] is not lax.ge_p or not all(isinstance(n, int) for n in operand.shape):
        return None
    window, strides, padding = (
        params[name] for name in ('window_dimensions', 'window_strides', 'padding')
    )
    axes = tuple(i for i, k in enumerate(window) if k > 1 or strides[i] > 1)
    fits = all(max(padding[i]) < window[i] and min(padding[i]) >= 0 for i in axes)
    others = [i for i in range(len(window)) if i not in axes]
    if not 1 <= len(axes) <= 3 or len(others) < 2 or not fits or 0 in operand.shape:
        return None
    return axes if all(tuple(padding[i]) == (0, 0) for i in others) else None


def gradient(dy: jax.Array, x: jax.Array, axes: tuple[int, ...], params: dict[str, Any]):
    """Computes select_and_scatter_add: adds dy at the positions of the maxima of x."""
    window, strides, padding = (
        [params[name][i] for i in axes]
        for name in ('window_dimensions', 'window_strides', 'padding')
    )
    first, *others = (i for i in range(x.ndim) if i not in axes)
    order = (first, *axes, *others)
    back = sorted(range(x.ndim), key=order.__getitem__)

    def channels_last(a):
        a = lax.transpose(a, order)
        return a.reshape(*a.shape[: 1 + len(axes)], -1)

    pool = lambda x: max_pool(x, window, strides, [*map(tuple, padding)])  # noqa: E731
    (dx,) = jax.vjp(pool, channels_last(x))[1](channels_last(dy))
    return lax.transpose(dx.reshape([x.shape[i] for i in order]), back)


def _scatter(platform: str, ctx: Any, dy: Any, x: Any, **params: Any) -> Any:
    axes = reads(ctx.avals_in[1], params) if rules.is_installed() else None
    if axes is None:
        return rules.originals[platform, lax.select_and_scatter_add_p](ctx, dy, x, **params)
    return rules.as_kernel(ctx, lambda dy, x: gradient(dy, x, axes, params), dy, x)


rules.register(lax.select_and_scatter_add_p, 'cpu', _scatter)

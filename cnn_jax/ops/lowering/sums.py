"""Lowers sums that XLA:CPU computes slowly: of 16-bit floats, and of batch norm's gradient.

Sums of many 16-bit floats, such as the gradients of biases, are computed in float32. JAX's own
`jnp.sum` accumulates in float32, but the gradient of a bias is a `lax.reduce_sum` of the gradient's
own dtype. XLA:CPU rounds it after every addition (65,536 ones sum to 512), and rewrites it to a
reduction over windows, at a fraction of the speed of memory.

`batch_norm` reads the other sums.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.lowering import batch_norm, internals, rules

SHORT = 32  # terms of a sum


def is_slow(x: Any, axes: tuple[int, ...]) -> bool:
    """Returns whether a sum of x over `axes` is one that XLA:CPU computes slowly."""
    if x.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    return rules.is_large(x) and math.prod(x.shape[i] for i in axes) >= SHORT


def in_float32(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Computes the sum in float32, and rounds it once."""
    # The other users of x read it in 16 bits. Without a barrier, XLA would compute it again in
    # float32, and write that to memory.
    return lax.optimization_barrier(x).astype(jnp.float32).sum(axes).astype(x.dtype)


def _sum(platform: str | None, ctx: Any, x: Any, **params: Any) -> Any:
    axes, (aval,) = tuple(params['axes']), ctx.avals_in
    if rules.is_installed() and tuple(ctx.module_context.platforms) == ('cpu',):
        if is_slow(aval, axes):
            return rules.as_kernel(ctx, lambda x: in_float32(x, axes), x)
        is_wide = aval.dtype in (jnp.float32, jnp.float64)
        if is_wide and rules.is_large(aval) and (found := batch_norm.read(x, axes)):
            function, operands = found
            avals = [jax.core.ShapedArray(internals.shape(v), aval.dtype) for v in operands]
            return rules.as_kernel(ctx.replace(avals_in=avals), function, *operands)
    return rules.originals[platform, lax.reduce_sum_p](ctx, x, **params)


# For all platforms, since JAX 0.10 fails to lower a rule that reads operands beside other rules in
# a program for several platforms. Such a program, an export, has JAX's own sums.
rules.register(lax.reduce_sum_p, None, _sum, reads_operands=True)

"""Lowers matrix products of bfloat16, as in dense layers, with the native kernel.

On a CPU that multiplies bfloat16 faster than float32, XLA still multiplies in float32. A product of
features and weights is a pointwise convolution whose positions are the rows. Its derivatives, which
JAX writes as products too, are the gradients of that convolution.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops import dispatch, tuning
from cnn_jax.ops.kernels.native import onednn
from cnn_jax.ops.lowering import internals, rules
from cnn_jax.ops.lowering.equations import Plan
from cnn_jax.ops.spec import ConvSpec

# With fewer rows, the time is that of reading the weights, which oneDNN also brings into blocks.
MANY_ROWS = 64
BLOCK = 16  # of input features


def read(lhs: Any, rhs: Any, params: dict[str, Any]) -> Plan | None:
    """Returns a product as a map of a pointwise convolution, or None if it is not a large one.

    Args:
        lhs, rhs: the operands, or any objects with their shapes and dtypes.
        params: parameters of the equation, as in `lax.dot_general_p`.
    """
    (lhs_sum, rhs_sum), batch_axes = params['dimension_numbers']
    dtypes = {lhs.dtype, rhs.dtype, params['preferred_element_type'] or lhs.dtype}
    if any(batch_axes) or dtypes != {jnp.dtype(jnp.bfloat16)}:
        return None
    if not all(isinstance(n, int) and n for n in (*lhs.shape, *rhs.shape)):
        return None
    *batch, features = lhs.shape
    rows, leading = math.prod(batch), tuple(range(len(batch)))
    if tuple(lhs_sum) == tuple(rhs_sum) == leading and lhs.ndim == rhs.ndim:
        # JAX writes the gradient of the weights as dy^T x.
        spec = _spec(rows, rhs.shape[-1], features)
        into = lambda a, b: (_as_positions(b), _as_positions(a))  # noqa: E731
        return _if_large(Plan('filter_grad', spec, into, lambda dw: dw[0].T))
    if tuple(lhs_sum) != (len(batch),) or rhs.ndim != 2:
        return None
    op = 'forward' if tuple(rhs_sum) == (0,) else 'input_grad'
    into = lambda a, b: (_as_positions(a), jnp.expand_dims(b, 0))  # noqa: E731
    back = lambda y: y.reshape(*batch, y.shape[-1])  # noqa: E731
    return _if_large(Plan(op, _spec(rows, *rhs.shape), into, back))


def _spec(rows: int, in_features: int, out_features: int) -> ConvSpec:
    one = (1,)
    return ConvSpec(
        1, (rows,), in_features, one, out_features, one, ((0, 0),), one, one, 1, 'bfloat16'
    )


def _as_positions(a: jax.Array) -> jax.Array:
    return a.reshape(1, -1, a.shape[-1])


def _if_large(plan: Plan) -> Plan | None:
    spec = plan.spec
    is_large = spec.input_size[0] >= MANY_ROWS and spec.in_features % BLOCK == 0
    return plan if is_large else None


def _multiply(platform: str, ctx: Any, lhs: Any, rhs: Any, **params: Any) -> Any:
    plan = _plan(ctx, params)
    if plan is None:
        return rules.originals[platform, lax.dot_general_p](ctx, lhs, rhs, **params)
    return rules.lower(ctx, 'onednn', plan, platform, lhs, rhs, 'product_')


def _plan(ctx: Any, params: dict[str, Any]) -> Plan | None:
    is_plain = params['precision'] in (None, lax.Precision.DEFAULT, (lax.Precision.DEFAULT,) * 2)
    if not rules.apply_to(ctx) or not is_plain or dispatch.wish('conv', None):
        return None
    if internals.is_export(ctx) or internals.devices(ctx) != 1 or onednn.bfloat16_rate() <= 1:
        return None
    lhs, rhs = ctx.avals_in
    plan = read(lhs, rhs, params)
    if plan is None or next(tuning.ranked(plan.op, plan.spec, 'cpu'))[0] != 'onednn':
        return None
    return plan


rules.register(lax.dot_general_p, 'cpu', _multiply)

"""Checks the operands of a convolution: ranks, features, groups and dtypes."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.errors import UserError, UserTypeError
from cnn_jax.ops import checks
from cnn_jax.ops.platforms import target_platform
from cnn_jax.ops.spec import accumulator

Array = jax.Array


def check_operands(
    x: Any, kernel: Any, bias: Any, groups: Any, preferred_element_type: Any
) -> tuple[Array, Array, Array | None, int]:
    """Returns the operands as arrays, and the number of spatial axes.

    All have the dtype of the result, except that x and the kernel may both be narrower integers.

    Args:
        x: (*batch, *size, in_features).
        kernel: (*window, in_features // groups, out_features).
        bias: (out_features,) or None.
        groups: number of feature groups; must divide both numbers of features.
        preferred_element_type: the dtype of the result, or None.

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    x, kernel = checks.array(x, 'x'), checks.array(kernel, 'kernel')
    ndim = _spatial_axes(x, kernel)
    _check_features(x, kernel, groups)
    if bias is not None:
        bias = checks.array(bias, 'bias')
        if bias.shape != kernel.shape[-1:]:
            raise UserError(f'bias must have shape {kernel.shape[-1:]}, got {bias.shape}')
    checks.same_dtype(x=x, kernel=kernel, bias=bias)
    if preferred_element_type is None:
        if jnp.issubdtype(x.dtype, jnp.integer) and x.dtype.itemsize < 4:
            raise UserTypeError(
                f'x has dtype {x.dtype}, in which sums of products overflow; give '
                f'preferred_element_type, such as jnp.int32'
            )
    else:
        dtype = _dtype(preferred_element_type)
        if not _widens(x.dtype, dtype):
            x, kernel = x.astype(dtype), kernel.astype(dtype)
        bias = None if bias is None else bias.astype(dtype)
    return x, kernel, bias, ndim


def add_bias(y: Array, bias: Array | None) -> Array:
    """Returns y (..., out_features) + bias, in y's dtype.

    The gradient of the bias is a sum over all positions. In 16 bits XLA rounds after every addition
    (on CPUs, 65,536 ones sum to 512), so this sum is computed in float32.
    """
    if bias is None:
        return y
    return (_add if accumulator(y.dtype) == y.dtype else _add_in_16_bits)(y, bias)


def _add(y: Array, bias: Array) -> Array:
    dtype = accumulator(y.dtype)
    bias = jnp.expand_dims(bias.astype(dtype), range(y.ndim - 1))
    return (y.astype(dtype) + bias).astype(y.dtype)


_add_in_16_bits = jax.custom_jvp(_add)


@_add_in_16_bits.defjvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
    tangent = _add(*tangents)
    if target_platform() == 'cpu':
        # The gradient of this barrier is one, too. Without it, XLA would write the gradient of y in
        # float32 for the sum, and a copy in 16 bits for the convolution.
        tangent = lax.optimization_barrier(tangent)
    return _add_in_16_bits(*primals), tangent


def _spatial_axes(x: Array, kernel: Array) -> int:
    ndim = kernel.ndim - 2
    if not 1 <= ndim <= 3:
        raise UserError(
            'kernel must have 1 to 3 spatial axes, (*window, in_features // groups, out_features), '
            f'got shape {kernel.shape}'
        )
    if x.ndim < ndim + 1:
        raise UserError(
            f'x must have {ndim} spatial axes and a feature axis to match the kernel of shape '
            f'{kernel.shape}, got shape {x.shape}'
        )
    if 0 in kernel.shape:
        raise UserError(f'kernel must have no axis of size 0, got shape {kernel.shape}')
    return ndim


def _check_features(x: Array, kernel: Array, groups: Any) -> None:
    groups = checks.integer(groups, 'groups', 1)
    features, (per_group, out_features) = x.shape[-1], kernel.shape[-2:]
    if features != per_group * groups:
        raise UserError(
            f'x has {features} features, but kernel {kernel.shape} with groups={groups} takes '
            f'{per_group} * {groups} = {per_group * groups}'
        )
    if out_features % groups:
        raise UserError(
            f'groups must divide the output features ({out_features}), got groups={groups}'
        )


def _widens(dtype: jnp.dtype, wider: jnp.dtype) -> bool:
    """Returns whether `jax.lax` can multiply integers of `dtype` and add up in `wider`."""
    both = all(jnp.issubdtype(d, jnp.integer) for d in (dtype, wider))
    return both and jnp.promote_types(dtype, wider) == wider


def _dtype(preferred_element_type: Any) -> jnp.dtype:
    try:
        return jnp.dtype(preferred_element_type)
    except TypeError:
        raise UserTypeError(
            f'preferred_element_type must be a dtype, got {preferred_element_type!r}'
        ) from None

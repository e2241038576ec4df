"""Products of features and a matrix of weights, as in dense layers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops import dispatch
from cnn_jax.ops.convolution import conv
from cnn_jax.ops.kernels.native import onednn
from cnn_jax.ops.platforms import target_platform

Array = jax.Array

# With fewer rows, the time is that of reading the weights, which oneDNN also brings into blocks.
MANY_ROWS = 64
BLOCK = 16  # of input features


def dot_general(
    lhs: Array,
    rhs: Array,
    dimension_numbers: lax.DotDimensionNumbers,
    precision: lax.PrecisionLike = None,
    preferred_element_type: Any = None,
    *,
    out_sharding: Any = None,
) -> Array:
    """Computes `jax.lax.dot_general`, whose arguments these are.

    It can be passed to Flax: `nnx.Linear(..., dot_general=cnn_jax.dot_general)`. On a CPU that
    multiplies bfloat16 in hardware, XLA still multiplies in float32. There, a product of bfloat16
    features (*batch, features) and weights (features, out_features) is computed as a pointwise
    convolution, by the native kernel. Everything else is `jax.lax.dot_general`.
    """
    is_plain = precision is None and preferred_element_type is None and out_sharding is None
    if is_plain and _is_faster_as_convolution(lhs, rhs, dimension_numbers):
        with jax.named_scope('dot_general'):  # profiles show it
            y = conv(lhs.reshape(1, -1, lhs.shape[-1]), rhs.reshape(1, *rhs.shape))
        return y.reshape(*lhs.shape[:-1], rhs.shape[-1])
    sharding = {} if out_sharding is None else {'out_sharding': out_sharding}
    return lax.dot_general(
        lhs, rhs, dimension_numbers, precision, preferred_element_type, **sharding
    )


def _is_faster_as_convolution(lhs: Array, rhs: Array, dimensions: Any) -> bool:
    (lhs_sum, rhs_sum), (lhs_batch, rhs_batch) = dimensions
    is_dense = (*lhs_sum, *rhs_sum) == (lhs.ndim - 1, 0) and not lhs_batch and not rhs_batch
    if not is_dense or rhs.ndim != 2 or not lhs.dtype == rhs.dtype == jnp.bfloat16:
        return False
    if not all(isinstance(n, int) for n in (*lhs.shape, *rhs.shape)):
        return False
    return (
        math.prod(lhs.shape[:-1]) >= MANY_ROWS
        and lhs.shape[-1] % BLOCK == 0 < rhs.size
        and target_platform() == 'cpu'
        and onednn.bfloat16_rate() > 1
        and not dispatch.wish('conv', None)  # nobody has named kernels
        and not any((*jax.typeof(lhs).sharding.spec, *jax.typeof(rhs).sharding.spec))
    )

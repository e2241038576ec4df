"""Products of features and a matrix of weights, as in dense layers."""

from typing import Any

import jax
from jax import lax

from cnn_jax.ops.lowering import rules

Array = jax.Array


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
    multiplies bfloat16 faster than float32, XLA still multiplies in float32. There, a product of
    bfloat16 features (*batch, features) and weights (features, out_features) is computed as a
    pointwise convolution, by the native kernel, and so are its gradients. Everything else is
    `jax.lax.dot_general`. After `cnn_jax.install()`, `jax.lax.dot_general` itself does the same.
    """
    sharding = {} if out_sharding is None else {'out_sharding': out_sharding}
    with rules.marked():
        return lax.dot_general(
            lhs, rhs, dimension_numbers, precision, preferred_element_type, **sharding
        )

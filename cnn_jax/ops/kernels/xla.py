"""Calls XLA's own convolution, `jax.lax.conv_general_dilated`, with JAX's transposes as gradients.

The input gradient, and thus the transposed convolution, is XLA's input-dilated convolution.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.kernels.views import transpose
from cnn_jax.ops.spec import ConvSpec

TAKES_NARROW = True


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if op != 'forward' and not jnp.issubdtype(spec.dtype, jnp.floating):
        return f'XLA transposes only floating-point convolutions, got {spec.dtype}'
    return None


def forward(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    spatial = 'DHW'[-spec.ndim :]
    layout = ('N' + spatial + 'C', spatial + 'IO', 'N' + spatial + 'C')
    return lax.conv_general_dilated(
        x,
        w,
        window_strides=spec.strides,
        padding=spec.padding,
        lhs_dilation=spec.input_dilation,
        rhs_dilation=spec.dilation,
        dimension_numbers=layout,
        feature_group_count=spec.groups,
        precision=spec.precision,
        preferred_element_type=spec.dtype,
    )


def input_grad(dy: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    return transpose(lambda x: forward(x, w, spec), spec.x_shape, dy)


def filter_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    return transpose(lambda w: forward(x, w, spec), spec.kernel_shape, dy)

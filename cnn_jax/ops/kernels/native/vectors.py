"""Calls the native kernels of vector instructions (`instruction_sets.h`).

They need what `onednn` needs, and AVX2 or AVX-512. bfloat16 is converted to float32 as it is read,
and rounded once.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax.ops.kernels.native import build
from cnn_jax.ops.spec import ROLES, ConvSpec


def reason_against(
    spec: ConvSpec, platform: str, own_reason: str | None, most_axes: int = 2
) -> str | None:
    """Returns why no such kernel computes `spec`, or `own_reason`, that of one of them, or None.

    The library is built only if nothing else stands against it.

    Args:
        most_axes: the number of spatial axes that it supports.
    """
    if platform != 'cpu':
        return f'it runs on CPU only, not on {platform}'
    if spec.dtype not in ('float32', 'bfloat16', 'float16'):
        return f'it supports float32, bfloat16 and float16, not {spec.dtype}'
    if spec.ndim > most_axes:
        return f'it supports at most {most_axes} spatial axes, not {spec.ndim}'
    if own_reason:
        return own_reason
    if 0 in spec.x_shape + spec.kernel_shape + spec.y_shape:
        return 'it does not support arrays of size 0'
    try:
        library = build.load()
    except build.Unavailable as reason:
        return str(reason)
    return None if library.CnnJaxHasVectors() else 'it needs a processor with AVX2 and FMA'


def call(
    target: str, op: str, a: jax.Array, b: jax.Array, spec: ConvSpec, **attributes: Any
) -> jax.Array:
    """Computes map `op` of `spec` by the foreign function `target`, with more attributes of it."""
    build.load()
    dtype = jnp.dtype('bfloat16' if spec.dtype == 'bfloat16' else 'float32')
    result_type = jax.ShapeDtypeStruct(spec.shape(ROLES[op][2]), dtype)
    result = jax.ffi.ffi_call(target, result_type)(
        a.astype(dtype), b.astype(dtype), problem=build.problem(spec, op, dtype), **attributes
    )
    return result.astype(spec.dtype)

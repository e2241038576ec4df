"""Calls a native kernel of Winograd's minimal filtering, F(2x2, 3x3) or F(4x4, 3x3).

`winograd.cc` has the algorithm and its source. Of the products of the definition, the first needs
4/9 and the second 1/4; in 1-D, as F(2, 3) and F(4, 3), they need 2/3 and 1/2. A NaN or an infinity
spreads over its whole tile of outputs, and rounding errors are about twice those of the direct
form. bfloat16 is converted to float32 as it is read, and rounded once.

The kernel needs what `onednn` needs, and AVX2 or AVX-512.
"""

import functools

import jax
import jax.numpy as jnp

from cnn_jax.ops.kernels import winograd as pure
from cnn_jax.ops.kernels.native import build, sharding
from cnn_jax.ops.spec import MAPS, ROLES, ConvSpec

IS_NATIVE = True

# Outputs of a tile along an axis -> how many products take as long as the transform of one of its
# numbers, of the input or of the result.
TRANSFORMED = {2: 18, 4: 28}
TRANSFORMED_KERNEL = 50  # the same for a number of the kernel


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if platform != 'cpu':
        return f'it runs on CPU only, not on {platform}'
    if spec.dtype not in ('float32', 'bfloat16', 'float16'):
        return f'it supports float32, bfloat16 and float16, not {spec.dtype}'
    if spec.ndim not in (1, 2):
        return f'it supports 1 or 2 spatial axes, not {spec.ndim}'
    if reason := pure.supports(spec, op, platform):
        return reason
    if 0 in spec.x_shape + spec.kernel_shape + spec.y_shape:
        return 'it does not support arrays of size 0'
    return build.reason_against_vectors()


@sharding.by_batch_and_space
def _call(op: str, a: jax.Array, b: jax.Array, spec: ConvSpec) -> jax.Array:
    return compute(op, a, b, spec, tile(spec))


forward, input_grad, filter_grad = (functools.partial(_call, op) for op in MAPS)


def compute(op: str, a: jax.Array, b: jax.Array, spec: ConvSpec, outputs: int) -> jax.Array:
    """Computes map `op` in tiles of `outputs` outputs along each axis, 2 or 4."""
    build.load()
    dtype = jnp.dtype('bfloat16' if spec.dtype == 'bfloat16' else 'float32')
    result_type = jax.ShapeDtypeStruct(spec.shape(ROLES[op][2]), dtype)
    result = jax.ffi.ffi_call('cnn_jax_winograd', result_type)(
        a.astype(dtype), b.astype(dtype), problem=build.problem(spec, op, dtype), outputs=outputs
    )
    return result.astype(spec.dtype)


def tile(spec: ConvSpec) -> int:
    """Returns the number of outputs of a tile along each axis that is estimated to be faster."""
    return min(TRANSFORMED, key=lambda outputs: _cost(spec, outputs))


def cost(spec: ConvSpec) -> int:
    """Returns the time of a map of `spec`, with its transforms, as a number of products."""
    return _cost(spec, tile(spec))


def _cost(spec: ConvSpec, outputs: int) -> int:
    return pure.products(spec, outputs, TRANSFORMED[outputs], TRANSFORMED_KERNEL)

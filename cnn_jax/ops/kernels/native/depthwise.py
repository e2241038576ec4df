"""Calls a native kernel of depthwise convolutions: one window for each feature.

`depthwise.cc` has the algorithm: the direct form, with all taps of an output in one pass. bfloat16
is converted to float32 as it is read, and rounded once.

The kernel needs what `onednn` needs, and AVX2 or AVX-512.
"""

import functools

import jax
import jax.numpy as jnp

from cnn_jax.ops.kernels.native import build, sharding
from cnn_jax.ops.spec import MAPS, ROLES, ConvSpec

IS_NATIVE = True


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if platform != 'cpu':
        return f'it runs on CPU only, not on {platform}'
    if spec.dtype not in ('float32', 'bfloat16', 'float16'):
        return f'it supports float32, bfloat16 and float16, not {spec.dtype}'
    if spec.ndim not in (1, 2):
        return f'it supports 1 or 2 spatial axes, not {spec.ndim}'
    if spec.groups not in (spec.in_features, spec.out_features):
        return 'it needs one input or one output feature per group'
    if set(spec.input_dilation) != {1}:
        return 'it does not support input dilation'
    if 0 in spec.x_shape + spec.kernel_shape + spec.y_shape:
        return 'it does not support arrays of size 0'
    return build.reason_against_vectors()


def _compute(op: str, a: jax.Array, b: jax.Array, spec: ConvSpec) -> jax.Array:
    inputs, outputs = spec.in_features // spec.groups, spec.out_features // spec.groups
    pairs = inputs * outputs  # one of the factors is 1
    if pairs == 1:
        return _call(op, a, b, spec)
    # One call for each pair of an input and an output feature of a group, as `vmap` makes them.
    first, second, out = tuple(ROLES[op])
    counts = {'x': inputs, 'y': outputs, 'w': pairs}
    one = spec.replace(
        in_features=spec.groups,
        out_features=spec.groups,
        dtype=spec.dtype if counts[out] == pairs else 'float32',  # of sums over pairs
    )

    def split(role: str, array: jax.Array) -> jax.Array:
        if role == 'w':
            array = array.reshape(*spec.window, inputs, spec.groups, outputs)
            array = jnp.moveaxis(array, (-3, -1), (0, 1))
        else:
            array = array.reshape(*array.shape[:-1], spec.groups, counts[role])
            array = jnp.moveaxis(array, -1, 0)
        array = array.reshape(counts[role], *one.shape(role))
        return jnp.broadcast_to(array.astype(one.dtype), (pairs, *array.shape[1:]))

    def call(operands: tuple[jax.Array, jax.Array]) -> jax.Array:
        return _call(op, *operands, one)

    results = jax.lax.map(call, (split(first, a), split(second, b)))
    if counts[out] < pairs:
        results = results.sum(0)
    elif out == 'w':
        results = results.reshape(inputs, outputs, *spec.window, spec.groups)
        results = jnp.moveaxis(results, (0, 1), (-3, -1))
    else:
        results = jnp.moveaxis(results, 0, -1)
    return results.reshape(spec.shape(out)).astype(spec.dtype)


@sharding.by_batch_and_space
def _call(op: str, a: jax.Array, b: jax.Array, spec: ConvSpec) -> jax.Array:
    build.load()
    dtype = jnp.dtype('bfloat16' if spec.dtype == 'bfloat16' else 'float32')
    result_type = jax.ShapeDtypeStruct(spec.shape(ROLES[op][2]), dtype)
    result = jax.ffi.ffi_call('cnn_jax_depthwise', result_type)(
        a.astype(dtype), b.astype(dtype), problem=build.problem(spec, op, dtype)
    )
    return result.astype(spec.dtype)


forward, input_grad, filter_grad = (functools.partial(_compute, op) for op in MAPS)

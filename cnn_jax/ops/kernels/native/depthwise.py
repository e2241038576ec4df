"""Calls a native kernel of depthwise convolutions: one window for each feature.

`depthwise.cc` has the algorithm: the direct form, with all taps of an output in one pass.
`vectors.py` says what it needs.
"""

import functools

import jax
import jax.numpy as jnp

from cnn_jax.ops.kernels.native import sharding, vectors
from cnn_jax.ops.spec import MAPS, ROLES, ConvSpec

IS_NATIVE = True


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    return vectors.reason_against(spec, platform, _own_reason(spec))


def _own_reason(spec: ConvSpec) -> str | None:
    if spec.groups not in (spec.in_features, spec.out_features):
        return 'it needs one input or one output feature per group'
    if set(spec.input_dilation) != {1}:
        return 'it does not support input dilation'
    return None


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
    return vectors.call('cnn_jax_depthwise', op, a, b, spec)


forward, input_grad, filter_grad = (functools.partial(_compute, op) for op in MAPS)

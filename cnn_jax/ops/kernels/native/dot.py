"""Calls a native kernel of pointwise (1x1) convolutions, for few features on one side.

`dot.cc` has the algorithm, which computes in float32. `vectors.py` says what it needs. oneDNN's
kernels leave most of a vector unused there: the kernel is for the head of a network that classifies
pixels, and for the layer that makes an image of many features.
"""

import functools

import jax

from cnn_jax.ops.kernels import dot
from cnn_jax.ops.kernels.native import build, sharding, vectors
from cnn_jax.ops.spec import MAPS, ROLES, ConvSpec

IS_NATIVE = True


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    return vectors.reason_against(spec, platform, dot.supports(spec, op, platform), most_axes=3)


@sharding.by_batch_and_space
def _call(op: str, a: jax.Array, b: jax.Array, spec: ConvSpec) -> jax.Array:
    build.load()
    a, b = (array.reshape(-1, array.shape[-1]).astype('float32') for array in (a, b))
    if op == 'forward':
        result = _product(a, b.T)
    elif op == 'input_grad':
        result = _product(a, b)
    elif spec.out_features < spec.in_features:  # more features fill more of a vector
        result = _outer_product(b, a).T
    else:
        result = _outer_product(a, b)
    return result.reshape(spec.shape(ROLES[op][2])).astype(spec.dtype)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the inner products of the rows of `a` and `b`."""
    return jax.ffi.ffi_call('cnn_jax_product', _float32(a.shape[0], b.shape[0]))(a, b)


def _outer_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the sum of the outer products of the rows of `a` and `b`."""
    return jax.ffi.ffi_call('cnn_jax_outer_product', _float32(a.shape[1], b.shape[1]))(a, b)


def _float32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, 'float32')


forward, input_grad, filter_grad = (functools.partial(_call, op) for op in MAPS)

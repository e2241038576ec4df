"""Calls a native kernel of Winograd's minimal filtering, F(4x4, 2x2), F(2x2, 3x3) or F(4x4, 3x3).

`winograd.cc` has the algorithm and its source. Of the products of the definition, the first needs
25/64, the second 4/9 and the third 1/4; in 1-D, as F(4, 2), F(2, 3) and F(4, 3), they need 5/8, 2/3
and 1/2. With strides, an array falls into phases of every stride-th position, and a window has its
taps of each phase: a window of 4 with stride 2 becomes windows of 2 with stride 1. A NaN or an
infinity spreads over its whole tile of outputs, and rounding errors are about twice those of the
direct form. `vectors.py` says what it needs.
"""

import functools
import math

import jax

from cnn_jax.ops.kernels import winograd as pure
from cnn_jax.ops.kernels.native import sharding, vectors
from cnn_jax.ops.spec import MAPS, ConvSpec

IS_NATIVE = True

# Taps of a phase -> outputs of a tile along an axis -> how many products take as long as the
# transform of one of its numbers, of the input or of the result.
TRANSFORMED = {2: {4: 20}, 3: {2: 10, 4: 16}}
TRANSFORMED_KERNEL = 50  # the same for a number of the kernel
PANEL = 32  # features of the result that are computed together, some in vain


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    return vectors.reason_against(spec, platform, _own_reason(spec, op, platform))


def _own_reason(spec: ConvSpec, op: str, platform: str) -> str | None:
    if not _taps(spec):
        return f'needs 2 or 3 taps per stride, got windows of {spec.window}, strides {spec.strides}'
    return pure.supports(_phase(spec).replace(window=(3,) * spec.ndim), op, platform)


@sharding.by_batch_and_space
def _call(op: str, a: jax.Array, b: jax.Array, spec: ConvSpec) -> jax.Array:
    return compute(op, a, b, spec, tile(spec, op))


forward, input_grad, filter_grad = (functools.partial(_call, op) for op in MAPS)


def compute(op: str, a: jax.Array, b: jax.Array, spec: ConvSpec, outputs: int) -> jax.Array:
    """Computes map `op` in tiles of `outputs` outputs along each axis, 2 or 4."""
    return vectors.call('cnn_jax_winograd', op, a, b, spec, outputs=outputs)


def tile(spec: ConvSpec, op: str) -> int:
    """Returns the number of outputs of a tile along each axis that is estimated to be faster."""
    return min(TRANSFORMED[_taps(spec)], key=lambda outputs: _cost(spec, op, outputs))


def cost(spec: ConvSpec, op: str) -> int:
    """Returns the time of map `op` of `spec`, with its transforms, as a number of products."""
    return _cost(spec, op, tile(spec, op))


def _cost(spec: ConvSpec, op: str, outputs: int) -> int:
    phases, one = math.prod(spec.strides), _phase(spec)
    transformed = TRANSFORMED[_taps(spec)][outputs]
    if op == 'input_grad':
        one = one.replace(in_features=_in_panels(spec.in_features))
        return phases * pure.products(one, outputs, transformed, TRANSFORMED_KERNEL)
    every = one.replace(
        in_features=phases * spec.in_features, out_features=_in_panels(spec.out_features)
    )
    return pure.products(every, outputs, transformed, TRANSFORMED_KERNEL)


def _in_panels(features: int) -> int:
    return -(-features // PANEL) * PANEL


def _taps(spec: ConvSpec) -> int:
    """Returns how many taps of a window see the same phase, 2 or 3 along each axis; otherwise 0."""
    axes = zip(spec.window, spec.strides, strict=True)
    taps = {-(-window // stride) for window, stride in axes}
    return taps.pop() if len(taps) == 1 and taps <= TRANSFORMED.keys() else 0


def _phase(spec: ConvSpec) -> ConvSpec:
    """Returns the convolution of one phase of the input."""
    taps, ones = _taps(spec), (1,) * spec.ndim
    return spec.replace(
        input_size=tuple(size + taps - 1 for size in spec.output_size),
        window=(taps,) * spec.ndim,
        strides=ones,
        padding=((0, 0),) * spec.ndim,
    )

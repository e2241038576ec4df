"""Convolves integers of at most 8 bits, exactly, with kernels that add up products in float32.

float32 holds every integer up to 2^24. A sum of products of int8, each at most 2^14 in magnitude,
is therefore exact in any order if it has at most 2^10 terms. Longer sums are cut along the features
into pieces, whose results are added as integers. These wrap around where XLA's do.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from cnn_jax.ops.spec import ConvSpec

Array = jax.Array

EXACT = 1 << 24  # float32 holds all integers up to this one
VECTOR = 16  # a piece has a multiple of this number of features, where possible
MOST_PIECES = 32  # all pieces are written out


def suits(op: str, spec: ConvSpec) -> bool:
    """Returns whether `in_pieces` can compute `op` of `spec`."""
    dtypes = (spec.dtype, _operand_dtype(spec))
    if op == 'filter_grad' or not all(jnp.issubdtype(dtype, jnp.integer) for dtype in dtypes):
        return False
    return _features(op, spec) <= MOST_PIECES * _most_features(spec)


def first_piece(op: str, spec: ConvSpec, dtype: str) -> ConvSpec:
    """Returns the first of the convolutions into which `in_pieces` cuts `op` of `spec`."""
    return next(_pieces(op, spec, dtype))[1]


def in_pieces(
    compute: Callable[[Array, Array, ConvSpec], Array],
    op: str,
    dtype: str,
    a: Array,
    b: Array,
    spec: ConvSpec,
) -> Array:
    """Computes `op` of `spec` from pieces, each computed by `compute`, whose result has `dtype`.

    If `dtype` is float32, the operands of a piece are cast to it, otherwise they stay narrow.
    """

    def parts() -> Iterator[Array]:
        for features, piece in _pieces(op, spec, dtype):
            cast = piece.operand_dtype or dtype
            first = _cut(a, spec.groups, features).astype(cast)
            second = b[..., features, :] if op == 'forward' else _cut(b, spec.groups, features)
            part = compute(first, second.astype(cast), piece)
            yield part.astype(jnp.int32).astype(spec.dtype)

    return functools.reduce(operator.add, parts())


def _pieces(op: str, spec: ConvSpec, dtype: str) -> Iterator[tuple[slice, ConvSpec]]:
    """Yields the features of each group that a piece sums over, and its convolution."""
    n, most = _features(op, spec), _most_features(spec)
    size = -(-n // -(-n // most))
    size = min(most, size + -size % VECTOR)
    narrow = None if dtype == 'float32' else _operand_dtype(spec)
    for start in range(0, n, size):
        stop = min(start + size, n)
        piece = spec.replace(dtype=dtype, operand_dtype=narrow)
        features = {_summed(op): spec.groups * (stop - start)}
        yield slice(start, stop), piece.replace(**features)


def _summed(op: str) -> str:
    return 'in_features' if op == 'forward' else 'out_features'


def _features(op: str, spec: ConvSpec) -> int:
    return getattr(spec, _summed(op)) // spec.groups


def _most_features(spec: ConvSpec) -> int:
    """Returns how many features of a group float32 can sum over, with all taps of the window."""
    limits = jnp.iinfo(_operand_dtype(spec))
    largest = max(-int(limits.min), int(limits.max))
    return EXACT // largest**2 // math.prod(spec.window)


def _operand_dtype(spec: ConvSpec) -> str:
    return spec.operand_dtype or spec.dtype


def _cut(array: Array, groups: int, features: slice) -> Array:
    """Returns the given features of each group of array (..., groups * features)."""
    *rest, n = array.shape
    kept = array.reshape(*rest, groups, n // groups)[..., features]
    return kept.reshape(*rest, groups * kept.shape[-1])

"""Finds the maximum of a window: the first of several equal ones, the last NaN.

That is the order in which PyTorch visits a window (aten/src/ATen/native/cpu/MaxPoolKernel.cpp):
a later element wins if it is greater, or NaN. Without dependence on the order of execution, the
gradient of a maximum that follows the winner is deterministic.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops.pool_spec import index_dtype

Array = jax.Array


def lowest(dtype: Any) -> np.ndarray:
    """The value that no maximum prefers, as padding."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return np.array(jnp.iinfo(dtype).min, dtype)
    # The types of 8 bits and fewer whose names end with "fn" or "uz" have no infinity.
    least = np.array(-np.inf).astype(dtype)
    return least if np.isneginf(least.astype(np.float64)) else np.array(jnp.finfo(dtype).min, dtype)


def of_taps(taps: Sequence[Array], first_inside: np.ndarray | None = None) -> tuple[Array, Array]:
    """Maximum and number of the winning tap, element by element over arrays of one shape.

    Args:
        taps: the windows' elements, tap by tap; at most 256.
        first_inside: bool (len(taps), *broadcastable): at the tap that is the first to read the
            input, not padding, of a window; that tap wins over all before it, so that padding
            never wins, not even where all is -inf.
    """
    best, code = taps[0], lax.full_like(taps[0], 0, np.uint8)
    for k, tap in enumerate(taps[1:], 1):
        wins = (tap > best) | (tap != tap)
        if first_inside is not None and first_inside[k].any():
            wins |= first_inside[k]
        best = jnp.where(wins, tap, best)
        code = jnp.where(wins, code.dtype.type(k), code)
    return best, code


def of_axes(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """The same for all elements of `axes` (from the end; kept, with size 1), numbered row by row.

    Two reductions instead of one step per element: for large windows.
    """
    number = numbers(x.shape, axes)
    best = x.max(axes, keepdims=True)
    # The least rank wins: the number itself where equal; for a NaN, greater the further back it is.
    rank = jnp.where(x == best, number, np.iinfo(number.dtype).max)
    rank = jnp.where(x != x, -1 - number, rank).min(axes, keepdims=True)
    return best, jnp.where(rank < 0, -1 - rank, rank)


def numbers(shape: Sequence[int], axes: tuple[int, ...], dtype: Any = None) -> Array:
    """Row-major numbers of the elements of `axes`, with size 1 along all other axes."""
    sizes = [n if axis in axes else 1 for axis, n in enumerate(shape, -len(shape))]
    count = math.prod(sizes)
    return lax.iota(dtype or index_dtype(count, 'a window'), count).reshape(sizes)

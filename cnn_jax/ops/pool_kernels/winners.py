"""Finds the maximum of a window: the first of several equal ones, the last NaN.

This is the result of PyTorch's loop over a window (aten/src/ATen/native/cpu/MaxPoolKernel.cpp),
where a later element wins if it is greater, or NaN. The winner does not depend on the order of
execution, so the gradient of a maximum, which follows the winner, is deterministic.
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
    """Returns the lowest value of `dtype`, which pads the input of a maximum."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return np.array(jnp.iinfo(dtype).min, dtype)
    # Floats of 8 bits or fewer whose names end in "fn" or "uz" have no infinity.
    least = np.array(-np.inf).astype(dtype)
    return least if np.isneginf(least.astype(np.float64)) else np.array(jnp.finfo(dtype).min, dtype)


def of_taps(taps: Sequence[Array], first_inside: np.ndarray | int = 0) -> tuple[Array, Array]:
    """Returns the elementwise maximum of arrays of one shape, and the number of the winning tap.

    Args:
        taps: one array per tap, with that element of every window; at most 256. Padding holds
            `lowest`.
        first_inside: the number of the first tap that reads the input and not padding, which
            broadcasts against a tap. It wins if no element is greater than `lowest`, so padding
            never does.
    """
    best = taps[0]
    code = lax.full_like(best, 0, np.uint8) + np.uint8(first_inside)  # with the sharding of `best`
    for k, tap in enumerate(taps[1:], 1):
        wins = (tap > best) | (tap != tap)
        best = jnp.where(wins, tap, best)
        code = jnp.where(wins, code.dtype.type(k), code)
    return best, code


def of_axes(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Returns the maximum over `axes` and the winner's number, in row-major order.

    `axes` count from the end, and are kept with size 1. This takes two reductions instead of one
    step per element, which suits large windows.
    """
    number = numbers(x.shape, axes)
    best = x.max(axes, keepdims=True)
    # The lowest rank wins. The rank of a maximum is its number; the last NaN has the lowest rank.
    rank = jnp.where(x == best, number, np.iinfo(number.dtype).max)
    rank = jnp.where(x != x, -1 - number, rank).min(axes, keepdims=True)
    return best, jnp.where(rank < 0, -1 - rank, rank)


def numbers(shape: Sequence[int], axes: tuple[int, ...], dtype: Any = None) -> Array:
    """Returns row-major numbers of the elements of `axes`, with size 1 along all other axes."""
    sizes = [n if axis in axes else 1 for axis, n in enumerate(shape, -len(shape))]
    count = math.prod(sizes)
    return lax.iota(dtype or index_dtype(count, 'a window'), count).reshape(sizes)

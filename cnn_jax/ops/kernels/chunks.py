"""Cuts a convolution into chunks of images, or of rows of an image, that fit in a cache.

XLA:CPU writes each intermediate array to fresh memory, page by page. In the body of a `lax.scan`
over chunks, the same small buffers serve all chunks.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from cnn_jax.ops.kernels.views import as_words, from_words

Array = jax.Array


class Chunks(NamedTuple):
    """The whole batch as `total` chunks: several images each, or one of several parts of an image.

    A row is a slice along the first spatial axis: of outputs, or of tiles of outputs.
    """

    images: int  # of a chunk
    rows: int  # of a chunk, in each image
    parts: int  # of an image
    total: int


def plan(batch: int, rows: int, bytes_per_row: int, budget: int) -> Chunks:
    """Returns chunks of equal size, as near to `budget` bytes as the factors of both sizes allow.

    `bytes_per_row` is for one row of one image; an image has `rows` of them.
    """
    wanted = budget / max(1, bytes_per_row)
    if wanted >= rows:
        images = _divisor(batch, wanted / rows)
        return Chunks(images, rows, 1, batch // images)
    height = _divisor(rows, wanted)
    return Chunks(1, height, rows // height, batch * rows // height)


def reader(
    x: Array,
    padding: Sequence[tuple[int, int, int]],
    chunks: Chunks,
    stride: int,
    window: int,
    dtype: DTypeLike,
) -> Callable[[Array], Array]:
    """Returns a function of a chunk's index that returns what the chunk reads of x, padded.

    Args:
        x: (batch, *size, features).
        padding: for each spatial axis, as in `lax.pad`.
        stride, window: row i of an image reads `window` positions from `stride` i.
        dtype: of what is returned.
    """
    own, words = str(x.dtype), as_words(x)
    config = [(0, 0, 0), *padding, (0, 0, 0)]
    zero = jnp.zeros((), words.dtype)
    if chunks.parts > 1:  # the parts overlap
        words = lax.pad(words, zero, config)
    span = (chunks.rows - 1) * stride + window if chunks.parts > 1 else words.shape[1]
    shape = (chunks.images, span, *words.shape[2:])

    def read(index: Array) -> Array:
        start = (index // chunks.parts * chunks.images, index % chunks.parts * chunks.rows * stride)
        part = lax.dynamic_slice(words, (*start, *[0] * (words.ndim - 2)), shape)
        if chunks.parts == 1:
            part = lax.pad(part, zero, config)
        # Without the barrier, each reader of the result would pad and cast it again.
        return lax.optimization_barrier(from_words(part, own).astype(dtype))

    return read


def joined(parts: Array, chunks: Chunks) -> Array:
    """Joins results of chunks (total, images, height, ...) to (batch, rows * height, ...)."""
    _, images, height, *rest = parts.shape
    return parts.reshape(-1, chunks.parts * height, *rest)


def _divisor(n: int, wanted: float) -> int:
    """Returns the divisor of n at the smallest ratio to `wanted`."""
    divisors = (d for d in range(1, n + 1) if n % d == 0)
    return min(divisors, key=lambda d: abs(math.log(d / max(1.0, wanted))))

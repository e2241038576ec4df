"""Computes convolutions with windows of 3 and stride 1 by Winograd's minimal filtering.

Lavin & Gray 2016, "Fast algorithms for convolutional neural networks" (arXiv:1509.09308),
sections 4.1 to 4.3. Along each axis, m outputs of a 3-tap filter need m + 2 multiplications
instead of 3 m:

    Y = A^T [(G g) * (B^T d)]              dg = G^T [(B^T d) * (A dy)]

In 2-D, F(2, 3) thus replaces 36 matrix products by 16, and F(4, 3) replaces 144 by 36. The
transformed tiles are larger than the images, so a `lax.scan` computes a chunk of them at a time, in
buffers that stay in the cache. The transforms add and subtract inputs. A NaN or an infinity
therefore spreads over its whole tile (up to m positions further than in the direct form), and
rounding errors are up to three times those of the direct form. 16-bit floats are transformed and
multiplied in float32.
"""

import functools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops.kernels import polyphase
from cnn_jax.ops.kernels.chunks import Chunks, joined, plan, reader
from cnn_jax.ops.spec import ConvSpec, accumulator

Array = jax.Array

A, B = math.sqrt(1 / 2), math.sqrt(2)

INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])  # B^T
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # G
OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])  # A^T


class Transforms(NamedTuple):
    """The matrices of F(m, 3)."""

    input: np.ndarray  # B^T, (m + 2, m + 2)
    kernel: np.ndarray  # G, (m + 2, 3)
    output: np.ndarray  # A^T, (m, m + 2)


TRANSFORMS = {
    2: Transforms(INPUT, KERNEL, OUTPUT),
    # Points 0, +-A, +-B and infinity. With the usual 1 and 2, errors are 4 to 7 times as large.
    4: Transforms(
        np.array(
            [
                [1, 0, -2.5, 0, 1, 0],
                [0, -2 * A, -2, A, 1, 0],
                [0, 2 * A, -2, -A, 1, 0],
                [0, -B / 2, -0.5, B, 1, 0],
                [0, B / 2, -0.5, -B, 1, 0],
                [0, 1, 0, -2.5, 0, 1],
            ]
        ),
        np.array([[6, 0, 0], [-4, -4 * A, -2], [-4, 4 * A, -2], [1, B, 2], [1, -B, 2], [0, 0, 6]])
        / 6,
        np.array(
            [
                [1, 1, 1, 1, 1, 0],
                [0, A, -A, B, -B, 0],
                [0, 0.5, 0.5, 2, 2, 0],
                [0, A / 2, -A / 2, 2 * B, -2 * B, 1],
            ]
        ),
    ),
}

CHUNK_BYTES = 1 << 24  # of transformed tiles, of inputs and outputs together
# Outputs of a tile along an axis -> how many products take as long as the transform of one of its
# numbers, of the input or of the result, along one axis.
TRANSFORMED = {2: 25, 4: 50}
TRANSFORMED_KERNEL = 100  # the same for a number of the kernel


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if set(spec.window) != {3}:
        return f'needs a window of 3 on every axis, got {spec.window}'
    for name in ('strides', 'dilation', 'input_dilation'):
        if set(getattr(spec, name)) != {1}:
            return f'needs {name} of 1, got {getattr(spec, name)}'
    if spec.groups > 1:
        return f'needs groups 1, got {spec.groups}'
    if spec.batch == 0:
        return 'needs at least one image, got batch 0'
    if not jnp.issubdtype(spec.dtype, jnp.floating):
        return f'halves the kernel: needs floating point, got {spec.dtype}'
    return None


def forward(x: Array, w: Array, spec: ConvSpec) -> Array:
    return _convolve(x, w, spec)


def input_grad(dy: Array, w: Array, spec: ConvSpec) -> Array:
    # The kernel's features are swapped after its transform, where XLA makes the swap part of the
    # matrix product. The swap here cancels the one in polyphase.py, so XLA makes no copy for it.
    return polyphase.input_grad(
        dy, w, spec, lambda dy, w, spec: _convolve(dy, w.swapaxes(-1, -2), spec, swap=True)
    )


def filter_grad(x: Array, dy: Array, spec: ConvSpec) -> Array:
    m = tile(spec)
    matrices, dtype, n = TRANSFORMS[m], accumulator(spec.dtype), spec.ndim
    chunks, tiles, padding = _layout(spec, m)
    read_x = reader(x, [(lo, hi, 0) for lo, hi in padding], chunks, m, m + 2, dtype)
    excess = [(0, t * m - o, 0) for t, o in zip(tiles, spec.output_size, strict=True)]
    read_dy = reader(dy, excess, chunks, m, m, dtype)
    tiles = (chunks.rows, *tiles[1:])

    def add(total, index):
        data = _to_tiles(matrices.input, read_x(index), tiles, m)
        gradient = _to_tiles(matrices.output.T, read_dy(index), tiles, m)
        product = jnp.einsum(
            'atc,ato->aco',
            data.reshape((m + 2) ** n, -1, spec.in_features),
            gradient.reshape((m + 2) ** n, -1, spec.out_features),
            precision=spec.precision,
        )
        return total + product, None

    total = jnp.zeros(((m + 2) ** n, spec.in_features, spec.out_features), dtype)
    total, _ = lax.scan(add, total, jnp.arange(chunks.total))
    dw = total.reshape(*(m + 2,) * n, *total.shape[1:])
    return _transform_kernel(matrices.kernel.T, dw, n).astype(spec.dtype)


def tile(spec: ConvSpec) -> int:
    """Returns the number of outputs of a tile along each axis that is estimated to be faster."""
    return min(TRANSFORMS, key=lambda m: _cost(spec, m))


def cost(spec: ConvSpec) -> int:
    """Returns the time of a map of `spec`, with its transforms, as a number of products."""
    return _cost(spec, tile(spec))


def _cost(spec: ConvSpec, m: int) -> int:
    return products(spec, m, spec.ndim * TRANSFORMED[m], TRANSFORMED_KERNEL)


def products(spec: ConvSpec, m: int, data: int, kernel: int) -> int:
    """Returns the time of a map of `spec` in tiles of m outputs, as a number of products.

    The transform of one number takes as long as `data` products, and of one of the kernel, as
    `kernel` products.
    """
    tiles = spec.batch * math.prod(-(-size // m) for size in spec.output_size)
    pairs, features = spec.in_features * spec.out_features, spec.in_features + spec.out_features
    taken = math.prod(m + window - 1 for window in spec.window)
    return taken * (tiles * (pairs + data * features) + kernel * pairs)


def _convolve(x: Array, w: Array, spec: ConvSpec, swap: bool = False) -> Array:
    m = tile(spec)
    matrices, dtype, n = TRANSFORMS[m], accumulator(spec.dtype), spec.ndim
    chunks, tiles, padding = _layout(spec, m)
    read = reader(x, [(lo, hi, 0) for lo, hi in padding], chunks, m, m + 2, dtype)
    tiles = (chunks.rows, *tiles[1:])
    kernels = _transform_kernel(matrices.kernel, w.astype(dtype), n)
    kernels = kernels.reshape(-1, *w.shape[n:])

    def convolve(_, index):
        data = _to_tiles(matrices.input, read(index), tiles, m)
        products = jnp.einsum(
            'atc,aoc->ato' if swap else 'atc,aco->ato',
            data.reshape((m + 2) ** n, -1, spec.in_features),
            kernels,
            precision=spec.precision,
        )
        shape = (*(m + 2,) * n, chunks.images, *tiles, spec.out_features)
        y = _from_tiles(matrices.output, products.reshape(shape), n).astype(spec.dtype)
        return None, y[_inside(spec)] if chunks.parts == 1 else y

    _, y = lax.scan(convolve, None, jnp.arange(chunks.total))
    return joined(y, chunks)[_inside(spec)]


def _layout(spec: ConvSpec, m: int) -> tuple[Chunks, tuple[int, ...], list[tuple[int, int]]]:
    """Returns the chunks, the tiles along each axis, and the padding with that of the last tile."""
    tiles = tuple(-(-size // m) for size in spec.output_size)
    numbers = (m + 2) ** spec.ndim * math.prod(tiles[1:]) * (spec.in_features + spec.out_features)
    bytes_per_row = numbers * accumulator(spec.dtype).itemsize
    padding = [
        (lo, hi + t * m - size)
        for t, size, (lo, hi) in zip(tiles, spec.output_size, spec.padding, strict=True)
    ]
    return plan(spec.batch, tiles[0], bytes_per_row, CHUNK_BYTES), tiles, padding


def _inside(spec: ConvSpec) -> tuple[slice, ...]:
    """Returns the indices of the outputs without the excess of the last tile."""
    return (slice(None), *map(slice, spec.output_size))


def _to_tiles(matrix: np.ndarray, x: Array, tiles: tuple[int, ...], m: int) -> Array:
    """Applies `matrix` to tiles that start m positions apart, along every spatial axis of x.

    Returns (*positions in a tile, images, *tiles, features).
    """
    for axis, count in enumerate(tiles):
        views = [
            lax.slice_in_dim(x, i, i + m * (count - 1) + 1, m, axis=2 * axis + 1)
            for i in range(matrix.shape[1])
        ]
        x = _materialized(jnp.stack(_combinations(matrix, views), axis))
    return x


def _from_tiles(matrix: np.ndarray, x: Array, ndim: int) -> Array:
    """Applies `matrix` to the tiles that `_to_tiles` returns, and joins the results side by side.

    Returns (images, *size, features).
    """
    for axis in range(ndim - 1):
        views = [lax.index_in_dim(x, i, axis, keepdims=False) for i in range(matrix.shape[1])]
        x = _materialized(jnp.stack(_combinations(matrix, views), axis))
    # With the last axis, its results are interleaved, in the same pass over the data.
    first = ndim - 1
    order = [first, *(a for i in range(first) for a in (first + 1 + i, i)), 2 * first + 1]
    views = [
        lax.index_in_dim(x, i, first, keepdims=False).transpose(*order, 2 * first + 2)
        for i in range(matrix.shape[1])
    ]
    y = jnp.stack(_combinations(matrix, views), axis=-2)
    images, features = y.shape[0], y.shape[-1]
    size = [t * len(matrix) for t in y.shape[1:-1:2]]
    return y.reshape(images, *size, features)


def _transform_kernel(matrix: np.ndarray, w: Array, ndim: int) -> Array:
    """Applies `matrix` along each of the first `ndim` axes of w."""
    for axis in range(ndim):
        views = [lax.index_in_dim(w, i, axis, keepdims=False) for i in range(matrix.shape[1])]
        w = _materialized(jnp.stack(_combinations(matrix, views), axis))
    return w


def _materialized(x: Array) -> Array:
    """Keeps XLA from computing x again for each of its readers."""
    return lax.optimization_barrier(x)


def _combinations(matrix: np.ndarray, views: Sequence[Array]) -> list[Array]:
    """Returns the linear combination of the views for each row of the matrix."""
    return [
        functools.reduce(
            operator.add, (_times(c, view) for c, view in zip(row, views, strict=True) if c)
        )
        for row in matrix
    ]


def _times(c: float, a: Array) -> Array:
    return a if c == 1 else -a if c == -1 else a * np.asarray(c, a.dtype)

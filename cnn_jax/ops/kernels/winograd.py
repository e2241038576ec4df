"""Computes convolutions with windows of 3 and stride 1 by Winograd's minimal filtering F(2, 3).

Lavin & Gray 2016, "Fast algorithms for convolutional neural networks" (arXiv:1509.09308),
section 4. Along each axis, 4 multiplications instead of 6 give two outputs of a 3-tap filter:

    Y = A^T [(G g) * (B^T d)]

In 2-D, 16 matrix products thus replace 36 in the direct form. The transforms add and subtract
inputs. A NaN or an infinity therefore spreads over its whole tile (up to two positions further than
in the direct form), and rounding errors are about twice those of the direct form. 16-bit floats are
transformed and multiplied in float32.
"""

import functools
import itertools
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops.kernels import polyphase
from cnn_jax.ops.kernels.views import dilate_and_pad
from cnn_jax.ops.spec import ConvSpec, accumulator

Array = jax.Array
Tiles = dict[tuple[int, ...], Array]

INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])  # B^T
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # G
OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])  # A^T


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if set(spec.window) != {3}:
        return f'needs a window of 3 on every axis, got {spec.window}'
    for name in ('strides', 'dilation', 'input_dilation'):
        if set(getattr(spec, name)) != {1}:
            return f'needs {name} of 1, got {getattr(spec, name)}'
    if spec.groups > 1:
        return f'needs groups 1, got {spec.groups}'
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


def _convolve(x: Array, w: Array, spec: ConvSpec, swap: bool = False) -> Array:
    dtype = accumulator(spec.dtype)
    tiles = tuple(-(-o // 2) for o in spec.output_size)
    x = dilate_and_pad(x, spec).astype(dtype)
    short = [(0, 2 * t + 2 - n) for t, n in zip(tiles, spec.padded_size, strict=True)]
    x = jnp.pad(x, ((0, 0), *short, (0, 0)))
    # Tiles of 4 start 2 apart. Each view holds one element of every tile and is a strided slice.
    views = {
        at: x[(slice(None), *(slice(i, i + 2 * t - 1, 2) for i, t in zip(at, tiles, strict=True)))]
        for at in itertools.product(range(4), repeat=spec.ndim)
    }
    w = w.astype(dtype)
    taps = {at: w[at] for at in itertools.product(range(3), repeat=spec.ndim)}
    data, kernels = _transform(INPUT, views, spec.ndim), _transform(KERNEL, taps, spec.ndim)
    products = {
        at: jnp.matmul(
            data[at].reshape(-1, spec.in_features),
            kernels[at].T if swap else kernels[at],
            precision=spec.precision,
        )
        for at in data
    }
    outputs = _transform(OUTPUT, products, spec.ndim)
    return _join({at: y.astype(spec.dtype) for at, y in outputs.items()}, tiles, spec)


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def _transform(matrix: np.ndarray, tiles: Tiles, ndim: int) -> Tiles:
    """Applies `matrix` along every axis of the tiles' positions."""
    for axis in range(ndim):
        rest = {at[:axis] + at[axis + 1 :] for at in tiles}
        tiles = {
            (*at[:axis], row, *at[axis:]): _sum(
                _times(c, tiles[(*at[:axis], i, *at[axis:])])
                for i, c in enumerate(matrix[row])
                if c
            )
            for at in rest
            for row in range(len(matrix))
        }
    return tiles


def _times(c: float, a: Array) -> Array:
    return a if c == 1 else -a if c == -1 else a * np.asarray(c, a.dtype)


def _join(outputs: Tiles, tiles: tuple[int, ...], spec: ConvSpec) -> Array:
    """Joins the outputs of the tiles side by side and cuts off the excess of the last tile."""
    n = spec.ndim
    y = jnp.stack([outputs[at] for at in itertools.product(range(2), repeat=n)], axis=-2)
    y = y.reshape(spec.batch, *tiles, *(2,) * n, spec.out_features)
    order = [0, *(axis for i in range(n) for axis in (1 + i, 1 + n + i)), 2 * n + 1]
    y = y.transpose(order).reshape(spec.batch, *(2 * t for t in tiles), spec.out_features)
    return y[(slice(None), *(slice(o) for o in spec.output_size))]

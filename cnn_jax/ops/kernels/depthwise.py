"""Computes the filter gradient of a depthwise convolution, for all taps in one pass over the data.

    dw[t, c] = sum over images and positions p of x[s p + d t, c] dy[p, c]

A few rows at a time are multiplied and added to one accumulator per tap, elementwise in the
remaining axes, so that rows and accumulators stay in the cache. A separate sum for each tap would
read all of x and dy once per tap.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.kernels.views import as_words, dilate_and_pad, from_words, tap_slices
from cnn_jax.ops.spec import ConvSpec, accumulator

Array = jax.Array

MOST_TAPS = 32  # every tap is unrolled for every row
MOST_ROWS = 16
ROWS_BYTES = 1 << 19  # of dy, read for all taps while they are in a core's cache


def suits(spec: ConvSpec) -> bool:
    one_each = spec.is_depthwise and spec.out_features == spec.groups
    return one_each and math.prod(spec.window) <= MOST_TAPS and 0 not in spec.y_shape


def filter_grad(x: Array, dy: Array, spec: ConvSpec) -> Array:
    x, dy = as_words(dilate_and_pad(x, spec)), as_words(dy)
    taps = tap_slices(spec)
    if spec.ndim == 1:  # the images are the rows
        x, dy = x[None], dy[None]
        taps = [(slice(0, len(dy[0]), 1), *tap) for tap in taps]
    dtype, height = accumulator(spec.dtype), dy.shape[1]
    row_bytes = math.prod(dy.shape[2:]) * dtype.itemsize
    blocks = -(-height // max(1, min(MOST_ROWS, ROWS_BYTES // row_bytes)))
    rows = -(-height // blocks)
    stride = taps[0][0].step
    last = max(tap[0].start for tap in taps)
    # Rows of zeros are appended to dy to fill the last block, and to x where it is too short. Their
    # products are masked out, because x may have an infinity there.
    x = _extend(x, (blocks * rows - 1) * stride + last + 1)
    dy = _extend(dy, blocks * rows).reshape(len(dy) * blocks, rows, *dy.shape[2:])
    span = (rows - 1) * stride + last + 1

    def add(sums, block):
        index, dy = block
        start = (index // blocks, index % blocks * (rows * stride), *[0] * (x.ndim - 2))
        part = from_words(lax.dynamic_slice(x, start, (1, span, *x.shape[2:]))[0], spec.dtype)
        dy = from_words(dy, spec.dtype).astype(dtype)
        row = index % blocks * rows + jnp.arange(rows).reshape(-1, *[1] * (dy.ndim - 1))
        new = []
        for total, (tap, *rest) in zip(sums, taps, strict=True):
            read = slice(tap.start, tap.start + (rows - 1) * stride + 1, stride)
            products = part[(read, *rest)].astype(dtype) * dy
            if blocks * rows > height:
                products = jnp.where(row < height, products, jnp.zeros((), dtype))
            new.append(sum(products, start=total))
        return tuple(new), None

    zero = jnp.zeros(dy.shape[2:], dtype)
    sums, _ = lax.scan(add, (zero,) * len(taps), (jnp.arange(len(dy)), dy))
    dw = jnp.stack([total.reshape(-1, spec.out_features).sum(0) for total in sums])
    return dw.reshape(spec.kernel_shape).astype(spec.dtype)


def _extend(a: Array, rows: int) -> Array:
    """Appends zeros to `a` along axis 1, up to a size of at least `rows`."""
    return jnp.pad(a, [(0, 0), (0, max(0, rows - a.shape[1])), *[(0, 0)] * (a.ndim - 2)])

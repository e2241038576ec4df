"""Computes im2col's gradients for few features, with one row per tap and feature.

A row of the patch matrix is a shifted image of one feature. It is contiguous along the last spatial
axis, so copies and additions are vectorized. With the features last, contiguous runs would be only
as long as the number of features.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.kernels.views import (
    as_words,
    dilate_and_pad,
    from_words,
    images_per_chunk,
    positions,
    product,
    tap_slices,
)
from cnn_jax.ops.spec import ConvSpec, accumulator

Array = jax.Array

READ_BYTES = 1 << 18  # of the patch matrix that `filter_grad` builds per chunk
WRITE_BYTES = 1 << 24  # of the patch matrix that `input_grad` computes per chunk


def filter_grad(x: Array, dy: Array, spec: ConvSpec) -> Array:
    features, taps = spec.in_features, tap_slices(spec)
    n = images_per_chunk(spec, _row_bytes(spec), READ_BYTES)
    images = jnp.moveaxis(as_words(dilate_and_pad(x, spec)), -1, 0)
    images = images.reshape(features, -1, n, *images.shape[2:]).swapaxes(0, 1)
    dy = dy.reshape(len(images), -1, spec.out_features)

    def add(carry, chunk):
        dw, rows = carry
        images, dy = chunk
        for i, tap in enumerate(taps):
            block = images[(slice(None), slice(None), *tap)].reshape(features, -1)
            rows = lax.dynamic_update_slice(rows, block, (i * features, 0))
        return (dw + product(from_words(rows, spec.dtype), dy, spec), rows), None

    dw = jnp.zeros((len(taps) * features, spec.out_features), accumulator(spec.dtype))
    rows = jnp.zeros((len(taps) * features, dy.shape[1]), images.dtype)
    (dw, _), _ = lax.scan(add, (dw, rows), (images, dy))
    return dw.reshape(spec.kernel_shape).astype(spec.dtype)


def input_grad(dy: Array, w: Array, spec: ConvSpec) -> Array:
    """Computes dx as the sum of the shifted rows of w dy^T."""
    features, dtype, padded = spec.in_features, accumulator(spec.dtype), spec.padded_size
    matrix = w.reshape(-1, spec.out_features)
    inside = tuple(
        slice(lo, size - hi, e)
        for size, (lo, hi), e in zip(padded, spec.padding, spec.input_dilation, strict=True)
    )
    n = images_per_chunk(spec, _row_bytes(spec), WRITE_BYTES)

    def add(dy):
        rows = product(matrix, dy.reshape(-1, spec.out_features).T, spec)
        rows = rows.reshape(-1, features, n, *spec.output_size)
        dx = jnp.zeros((features, n, *padded), dtype)
        for row, tap in zip(rows, tap_slices(spec), strict=True):
            around = [(s.start, m - s.stop, s.step - 1) for s, m in zip(tap, padded, strict=True)]
            dx += lax.pad(row, jnp.zeros((), dtype), [(0, 0, 0), (0, 0, 0), *around])
        return dx[(slice(None), slice(None), *inside)].astype(spec.dtype)

    dx = lax.map(add, dy.reshape(-1, n, *dy.shape[1:]))  # (chunk, feature, image, *size)
    return jnp.moveaxis(dx, 1, -1).reshape(spec.x_shape)


def _row_bytes(spec: ConvSpec) -> int:
    """Returns the size in bytes of the patch matrix of one image."""
    width = math.prod(spec.window) * spec.in_features
    return positions(spec) * width * accumulator(spec.dtype).itemsize

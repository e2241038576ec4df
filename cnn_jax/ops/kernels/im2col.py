"""Computes a convolution as a matrix product with the matrix of patches (im2col).

Chellapilla, Puri & Simard 2006, "High performance convolutional neural networks for document
processing", section 4.1. The matrix is built for a few images at a time, so that it fits in the
cache. A `lax.scan` carries one buffer and updates it in place, which is the only way to move
patches at memory speed on XLA:CPU.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.kernels import patch_rows, polyphase
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

PATCH_BYTES = 1 << 20  # of the patch matrix, which fits in a core's cache
MOST_TAPS = 1024
FEW_FEATURES = 16

SMALL_INTEGERS = 'float32'


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if spec.groups > 1:
        return f'one matrix holds the patches of all features: needs groups 1, got {spec.groups}'
    if math.prod(spec.window) > MOST_TAPS:
        return f'copies one block per tap: needs a window of at most {MOST_TAPS}, got {spec.window}'
    if spec.batch == 0:
        return 'needs at least one image, got batch 0'
    return None


def forward(x: Array, w: Array, spec: ConvSpec) -> Array:
    chunks, buffer = _chunks(as_words(dilate_and_pad(x, spec)), spec)
    matrix = w.reshape(-1, spec.out_features)

    def multiply(buffer, images):
        buffer = _fill(buffer, images, spec)
        y = product(from_words(buffer, spec.dtype), matrix, spec)
        return buffer, as_words(y.astype(spec.dtype))

    _, y = lax.scan(multiply, buffer, chunks)
    return from_words(y, spec.dtype).reshape(spec.y_shape)


def input_grad(dy: Array, w: Array, spec: ConvSpec) -> Array:
    if spec.in_features < FEW_FEATURES or polyphase.unsupported(spec):
        return patch_rows.input_grad(dy, w, spec)
    return polyphase.input_grad(dy, w, spec, forward)


def filter_grad(x: Array, dy: Array, spec: ConvSpec) -> Array:
    if spec.in_features < FEW_FEATURES:
        return patch_rows.filter_grad(x, dy, spec)
    dtype = accumulator(spec.dtype)
    chunks, buffer = _chunks(as_words(dilate_and_pad(x, spec)), spec)
    # The product is dy^T patches, not patches^T dy: XLA:CPU is fast only if the left operand is
    # contracted along its last axis, and dy is the smaller operand to transpose.
    rows = as_words(dy).reshape(len(chunks), -1, spec.out_features).transpose(0, 2, 1)

    def add(carry, chunk):
        dw, buffer = carry
        images, rows = chunk
        buffer = _fill(buffer, images, spec)
        dw += product(from_words(rows, spec.dtype), from_words(buffer, spec.dtype), spec)
        return (dw, buffer), None

    dw = jnp.zeros((spec.out_features, buffer.shape[1]), dtype)
    (dw, _), _ = lax.scan(add, (dw, buffer), (chunks, rows))
    return dw.T.reshape(spec.kernel_shape).astype(spec.dtype)


def _chunks(x: Array, spec: ConvSpec) -> tuple[Array, Array]:
    """Returns the padded input in chunks of images, and a buffer for the patches of one chunk."""
    taps, rows = math.prod(spec.window), positions(spec)
    width = taps * spec.in_features
    n = images_per_chunk(spec, rows * width * x.dtype.itemsize, PATCH_BYTES)
    return x.reshape(spec.batch // n, n, *x.shape[1:]), jnp.zeros((n * rows, width), x.dtype)


def _fill(buffer: Array, images: Array, spec: ConvSpec) -> Array:
    """Writes the patches, one block of columns per tap."""
    for i, taps in enumerate(tap_slices(spec)):
        block = images[(slice(None), *taps)].reshape(-1, spec.in_features)
        buffer = lax.dynamic_update_slice(buffer, block, (0, i * spec.in_features))
    return buffer

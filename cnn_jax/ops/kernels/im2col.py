"""Computes a convolution as a matrix product with the matrix of patches (im2col).

Chellapilla, Puri & Simard 2006, "High performance convolutional neural networks for document
processing", section 4.1. The matrix is built for a few images or a few rows at a time, so that it
fits in the cache.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.kernels import patch_rows, polyphase
from cnn_jax.ops.kernels.chunks import Chunks, joined, plan, reader
from cnn_jax.ops.kernels.views import factor_dtype, product, tap_slices
from cnn_jax.ops.spec import ConvSpec, accumulator

Array = jax.Array

PATCH_BYTES = 1 << 22  # of the patch matrix of a chunk
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
    chunks, patches = _patches(x, spec)
    matrix = w.reshape(-1, spec.out_features)
    shape = (chunks.images, chunks.rows, *spec.output_size[1:], spec.out_features)

    def multiply(_, index):
        y = product(patches(index), matrix, spec)
        return None, y.astype(spec.dtype).reshape(shape)

    _, y = lax.scan(multiply, None, jnp.arange(chunks.total))
    return joined(y, chunks)


def input_grad(dy: Array, w: Array, spec: ConvSpec) -> Array:
    if spec.in_features < FEW_FEATURES or polyphase.unsupported(spec):
        return patch_rows.input_grad(dy, w, spec)
    return polyphase.input_grad(dy, w, spec, forward)


def filter_grad(x: Array, dy: Array, spec: ConvSpec) -> Array:
    if spec.in_features < FEW_FEATURES:
        return patch_rows.filter_grad(x, dy, spec)
    chunks, patches = _patches(x, spec)
    dtype = accumulator(spec.dtype)
    rows = dy.reshape(chunks.total, -1, spec.out_features)

    def add(dw, chunk):
        index, rows = chunk
        # dy^T patches, not patches^T dy: the left operand is the one that XLA:CPU transposes.
        return dw + product(rows.T, patches(index), spec), None

    dw = jnp.zeros((spec.out_features, math.prod(spec.window) * spec.in_features), dtype)
    dw, _ = lax.scan(add, dw, (jnp.arange(chunks.total), rows))
    return dw.T.reshape(spec.kernel_shape).astype(spec.dtype)


def _patches(x: Array, spec: ConvSpec) -> tuple[Chunks, Callable[[Array], Array]]:
    """Returns the chunks, and a function of a chunk's index that returns its patch matrix."""
    dtype = factor_dtype(spec)
    width = math.prod(spec.window) * spec.in_features
    bytes_per_row = math.prod(spec.output_size[1:]) * width * dtype.itemsize
    chunks = plan(spec.batch, spec.output_size[0], bytes_per_row, PATCH_BYTES)
    padding = [
        (lo, hi, e - 1) for (lo, hi), e in zip(spec.padding, spec.input_dilation, strict=True)
    ]
    read = reader(x, padding, chunks, spec.strides[0], spec.dilated_window[0], dtype)
    last = (chunks.rows - 1) * spec.strides[0]

    def patches(index: Array) -> Array:
        part = read(index)
        blocks = [
            part[:, rows.start : rows.start + last + 1 : rows.step, *rest]
            for rows, *rest in tap_slices(spec)
        ]
        # Without the barrier, XLA would write the transpose of the matrix, element by element.
        matrix = jnp.concatenate([b.reshape(-1, spec.in_features) for b in blocks], axis=1)
        return lax.optimization_barrier(matrix)

    return chunks, patches

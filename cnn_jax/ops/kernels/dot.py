"""Computes a pointwise (1x1) convolution as one matrix product over the features."""

import jax

from cnn_jax.ops.kernels.views import as_words, from_words, product
from cnn_jax.ops.spec import ConvSpec

Array = jax.Array

SMALL_INTEGERS = 'float32'


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if not spec.is_pointwise:
        return (
            f'needs a 1x1 window of stride 1 without padding or input dilation, got window '
            f'{spec.window}, strides {spec.strides}, padding {spec.padding}'
        )
    if spec.groups > 1:
        return f'needs groups 1, got {spec.groups}'
    return None


def forward(x: Array, w: Array, spec: ConvSpec) -> Array:
    y = product(x.reshape(-1, spec.in_features), _matrix(w), spec)
    return y.reshape(spec.y_shape).astype(spec.dtype)


def input_grad(dy: Array, w: Array, spec: ConvSpec) -> Array:
    dx = product(dy.reshape(-1, spec.out_features), _matrix(w).T, spec)
    return dx.reshape(spec.x_shape).astype(spec.dtype)


def filter_grad(x: Array, dy: Array, spec: ConvSpec) -> Array:
    # XLA:CPU multiplies fast only if the left operand is contracted along its last axis.
    rows = from_words(as_words(dy.reshape(-1, spec.out_features)).T, spec.dtype)
    dw = product(rows, x.reshape(-1, spec.in_features), spec)
    return dw.T.reshape(spec.kernel_shape).astype(spec.dtype)


def _matrix(w: Array) -> Array:
    return w.reshape(w.shape[-2:])

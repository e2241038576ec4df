"""Computes a convolution by a `lax.scan` over the taps and an `einsum` over the channels.

Each tap k of the window sees one shifted, strided view of the padded input. The output is the sum

    y[n, i, o] = sum_k sum_c x[n, s i + d k, c] w[k, c, o]

As usual in deep learning, this is cross-correlation: the kernel is not flipped.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops.kernels.views import dilate_and_pad
from cnn_jax.ops.spec import ConvSpec, accumulator

SMALL_INTEGERS = 'float32'


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    return None


def forward(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    dtype = accumulator(spec.dtype)
    x = dilate_and_pad(x, spec)
    taps = np.array(list(itertools.product(*map(range, spec.window))), np.int32)
    starts = taps * np.array(spec.dilation, np.int32)
    span = tuple((o - 1) * s + 1 for o, s in zip(spec.output_size, spec.strides, strict=True))
    every = tuple(slice(None, None, s) for s in spec.strides)
    features = spec.in_features // spec.groups

    def add_tap(y, tap):
        start, kernel = tap
        view = lax.dynamic_slice(
            x, (jnp.int32(0), *start, jnp.int32(0)), (spec.batch, *span, spec.in_features)
        )[(slice(None), *every)]
        view = view.reshape(*view.shape[:-1], spec.groups, features)
        y += jnp.einsum(
            '...gc,cgo->...go',
            view,
            kernel,
            precision=spec.precision,
            preferred_element_type=dtype,
        )
        return y, None

    kernels = w.reshape(len(taps), features, spec.groups, spec.out_features // spec.groups)
    y = jnp.zeros((spec.batch, *spec.output_size, spec.groups, kernels.shape[-1]), dtype)
    y, _ = lax.scan(add_tap, y, (starts, kernels))
    return y.reshape(spec.y_shape).astype(spec.dtype)

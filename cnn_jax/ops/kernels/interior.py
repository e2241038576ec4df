"""Computes a transposed convolution of an input whose holes are written out.

It applies interior padding and then an XLA convolution of stride 1. Like 'lax', it multiplies by
the zeros in the holes, but XLA sees a plain convolution, whose gradients are plain convolutions
too.
"""

import jax
import jax.numpy as jnp

from cnn_jax.ops.kernels import xla
from cnn_jax.ops.kernels.views import dilate_and_pad, input_grad_spec, swap_features
from cnn_jax.ops.spec import ConvSpec


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if op == 'filter_grad' and (reason := xla.supports(spec, op, platform)):
        return reason
    if any(e > 1 for e in spec.input_dilation):
        return f'an input dilated by {spec.input_dilation} has a strided transpose'
    return None


def input_grad(dy: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    spread = input_grad_spec(spec)
    dy = dilate_and_pad(dy, spread)
    taps = swap_features(jnp.flip(w, range(spec.ndim)), spec.groups)
    plain = spread.replace(
        input_size=dy.shape[1:-1],
        padding=((0, 0),) * spec.ndim,
        input_dilation=(1,) * spec.ndim,
    )
    return xla.forward(dy, taps, plain)


def filter_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    # The transpose of `input_grad` in w would multiply x by the zeros around dy, so an infinity
    # in x would reach every tap.
    return xla.filter_grad(x, dy, spec)

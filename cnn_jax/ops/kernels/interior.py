"""Computes a transposed convolution of an input whose holes are written out.

It applies interior padding and then an XLA convolution of stride 1. Like 'lax', it multiplies by
the zeros in the holes, but XLA sees a plain convolution, whose gradients are plain convolutions
too.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.kernels import xla
from cnn_jax.ops.kernels.views import swap_features
from cnn_jax.ops.spec import ConvSpec


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if op == 'filter_grad' and (reason := xla.supports(spec, op, platform)):
        return reason
    if any(e > 1 for e in spec.input_dilation):
        return f'an input dilated by {spec.input_dilation} has a strided transpose'
    return None


def input_grad(dy: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    pads = []
    for n, o, k, s, (lo, _) in zip(
        spec.input_size,
        spec.output_size,
        spec.dilated_window,
        spec.strides,
        spec.padding,
        strict=True,
    ):
        # dx[h] is a sum over outputs p with s p = h + lo - d t, which reach back k - 1 positions.
        before = k - 1 - lo
        pads.append((before, n + k - 1 - before - ((o - 1) * s + 1), s - 1))
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
    taps = swap_features(jnp.flip(w, range(spec.ndim)), spec.groups)
    plain = spec.replace(
        input_size=dy.shape[1:-1],
        in_features=spec.out_features,
        out_features=spec.in_features,
        strides=(1,) * spec.ndim,
        padding=((0, 0),) * spec.ndim,
    )
    return xla.forward(dy, taps, plain)


def filter_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    # The transpose of `input_grad` in w would multiply x by the zeros around dy, so an infinity
    # in x would reach every tap.
    return xla.filter_grad(x, dy, spec)

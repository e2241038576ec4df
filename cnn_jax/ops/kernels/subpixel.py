"""Computes a transposed convolution as XLA convolutions, one per phase (see `polyphase.py`)."""

import jax

from cnn_jax.ops.kernels import polyphase, xla
from cnn_jax.ops.spec import ConvSpec


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if op == 'filter_grad' and (reason := xla.supports(spec, op, platform)):
        return reason
    return polyphase.unsupported(spec)


def input_grad(dy: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    return polyphase.input_grad(dy, w, spec, xla.forward)


def filter_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    # The transpose of `input_grad` in w would multiply x by the zeros around dy, so an infinity
    # in x would reach every tap.
    return xla.filter_grad(x, dy, spec)

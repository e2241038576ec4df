"""Transposed convolution by phases (`phases.py`), each an XLA convolution."""

import jax

from cnn_jax.ops.kernels import lax, phases
from cnn_jax.ops.spec import ConvSpec


def supports(spec: ConvSpec, op: str) -> str | None:
    return phases.unsupported(spec)


def input_grad(dy: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    return phases.input_grad(dy, w, spec, lax.forward)

"""Computes a convolution in groups with fewer, larger groups, each dense.

Neighbouring groups are merged into one whose kernel is block diagonal: it holds the kernels of the
groups, and zeros where a feature of one group would meet another group. A matrix unit that
multiplies 128 features at once takes as long for a group of 4. A NaN or infinity reaches the
results of all groups that its own was merged with.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops.kernels import xla
from cnn_jax.ops.kernels.views import transpose
from cnn_jax.ops.spec import ConvSpec

Array = jax.Array

TAKES_NARROW = True

LANES = 128  # features that a TPU's matrix unit multiplies at once (256 since v6e)


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if merged(spec) == 1:
        return (
            f'merges groups of together at most {LANES} features: needs two such groups, got '
            f'{spec.groups} of {spec.in_features // spec.groups} and '
            f'{spec.out_features // spec.groups}'
        )
    return xla.supports(spec, op, platform)


def forward(x: Array, w: Array, spec: ConvSpec) -> Array:
    return xla.forward(x, _kernel(w, spec), _inner(spec))


def input_grad(dy: Array, w: Array, spec: ConvSpec) -> Array:
    return xla.input_grad(dy, _kernel(w, spec), _inner(spec))


def filter_grad(x: Array, dy: Array, spec: ConvSpec) -> Array:
    dw = xla.filter_grad(x, dy, _inner(spec))
    return transpose(lambda w: _kernel(w, spec), spec.kernel_shape, dw)


def merged(spec: ConvSpec) -> int:
    """Returns the number of groups that become one: the most that fit in `LANES` features."""
    width = max(spec.in_features, spec.out_features) // spec.groups
    most = max(1, min(spec.groups, LANES // max(1, width)))
    return next(m for m in range(most, 0, -1) if spec.groups % m == 0)


def _inner(spec: ConvSpec) -> ConvSpec:
    return spec.replace(groups=spec.groups // merged(spec))


def _kernel(w: Array, spec: ConvSpec) -> Array:
    """Returns the kernel of the merged groups, (*window, merged * c, out_features)."""
    c, o = w.shape[-2], spec.out_features // spec.groups
    row = np.arange(merged(spec) * c)[:, None] // c
    column = np.arange(spec.out_features) // o % merged(spec)
    tiled = jnp.tile(w, (*(1,) * spec.ndim, merged(spec), 1))
    return jnp.where(np.broadcast_to(row == column, tiled.shape), tiled, jnp.zeros_like(tiled))

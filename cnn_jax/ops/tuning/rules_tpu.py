"""Rules that choose the kernels of a convolution on TPUs, from the estimates of docs/tpu.md.

No TPU was at hand. A rule is here only if the TPU compiler's estimate is better by half or more
for the operation alone, and better for the training step of a network that has it.
"""

import jax.numpy as jnp

from cnn_jax.ops.kernels import block_diagonal
from cnn_jax.ops.spec import ConvSpec

# Features of a group. With more, XLA's own convolution of groups is as good or better.
MOST_FEATURES = 16


def choice(spec: ConvSpec) -> tuple[str, str] | None:
    """Returns the kernel for every map of `spec` and the reason, or None for XLA's own."""
    if spec.groups == 1 or spec.is_depthwise or not jnp.issubdtype(spec.dtype, jnp.floating):
        return None
    width = max(spec.in_features, spec.out_features) // spec.groups
    if width > MOST_FEATURES or block_diagonal.merged(spec) == 1:
        return None
    return 'block_diagonal', f'groups of at most {MOST_FEATURES} features: fewer, larger groups'

"""Lowers transpositions of images between channels first and channels last natively on CPU.

Equinox, for example, writes such transpositions around each pool. `native.transpose` says why XLA's
own are slow there.
"""

from typing import Any

from jax import lax

from cnn_jax.ops.kernels.native import transpose as native
from cnn_jax.ops.lowering import rules


def moves_features(x: Any, order: tuple[int, ...]) -> bool:
    """Returns whether `order` exchanges the features of images or sequences and their positions.

    All other transpositions are XLA's, which folds many of them into products of matrices.
    """
    if len(order) < 3 or not native.is_large(x):
        return False
    blocks = native.split(x.shape, order)
    if len(blocks) < 2:
        return False
    *batch, first, last = sorted(blocks)
    return len(batch) <= 1 and blocks == [*batch, last, first]


def _transpose(platform: str, ctx: Any, x: Any, permutation: tuple[int, ...]) -> Any:
    if rules.is_installed() and moves_features(ctx.avals_in[0], permutation):
        return rules.as_kernel(ctx, lambda x: native.transpose(x, permutation), x)
    original = rules.originals[platform, lax.transpose_p]
    return original(ctx, x, permutation=permutation)


rules.register(lax.transpose_p, 'cpu', _transpose)

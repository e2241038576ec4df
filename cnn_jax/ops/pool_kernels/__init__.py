"""The formulations of pooling: one file each, registered in `KERNELS`.

A kernel module defines, as plain traceable JAX on x (*batch, *input_size, features),

    supports(spec) -> None, or the reason why not
    maximum(x, spec) -> y              of x's dtype
    total(x, spec) -> sums             in the accumulator's dtype; differentiated as it stands
    winners(x, spec) -> codes          integers that say which element of each window is the maximum
    pick(values, codes, spec)          values at the winners; linear in values, so that it is the
                                       derivative of the maximum and transposes to its gradient;
                                       batch and feature axes of values may have size 1

Nothing but spatial axes is cut, merged or split, and those one by one: so batch sizes may be
symbolic, and arrays may lie on a mesh of explicit axes.
"""

from typing import Any

from cnn_jax.ops.pool_kernels import reduce_window, reshape, shift
from cnn_jax.ops.pool_spec import PoolSpec
from cnn_jax.registry import Registry

KERNELS: Registry[Any] = Registry('pooling kernel')
KERNELS.register('reshape', reshape)
KERNELS.register('shift', shift)
KERNELS.register('reduce_window', reduce_window)


def reason_against(name: str, spec: PoolSpec) -> str | None:
    """None if kernel `name` can compute `spec`, else the reason why not."""
    return KERNELS[name].supports(spec)


def default(spec: PoolSpec) -> str:
    """The kernel for implementation=None: the first that supports `spec`."""
    return next(name for name in KERNELS if reason_against(name, spec) is None)

"""Formulations of pooling: one file per formulation, registered in `KERNELS`.

A kernel module defines these functions in plain traceable JAX. Here x is
(*batch, *input_size, features).

    supports(spec) -> None, or the reason why not
    maximum(x, spec) -> y              of x's dtype
    total(x, spec) -> sums             in the accumulator's dtype; JAX differentiates it
    winners(x, spec) -> codes          integers that say which elements are the maxima
    pick(values, codes, spec)          values at the winners; linear in values, so it is the
                                       derivative of the maximum, and its transpose the gradient;
                                       batch and feature axes of values may have size 1

Kernels slice, merge or split spatial axes only, one axis at a time. Batch sizes may therefore be
symbolic, and arrays may be sharded over a mesh with explicit axes.
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
    """Returns None if kernel `name` can compute `spec`, else the reason why not."""
    return KERNELS[name].supports(spec)


def default(spec: PoolSpec) -> str:
    """Returns the kernel for implementation=None, which is the first that supports `spec`."""
    return next(name for name in KERNELS if reason_against(name, spec) is None)

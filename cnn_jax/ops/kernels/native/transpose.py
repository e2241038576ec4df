"""Transposes large float32 arrays natively, for programs that are channels-first.

XLA fuses a transposition with the elementwise operations before or after it, which then read or
write with large strides. It does not fuse a foreign function: those operations stay contiguous, and
the array is transposed at the speed of memory.

In bfloat16, the pools and the sums after a convolution run channels-last too, so XLA can often keep
whole networks channels-last, and native transpositions made those slower.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from cnn_jax.ops.kernels.native import build
from cnn_jax.ops.lowering import internals

LARGE = 1 << 14  # elements


def natively(arrange: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `arrange`, a function that rearranges arrays, with its transpositions made natively.

    Transpositions in sequence, such as one of JAX's gradients and one of this package, are composed
    first. Often nothing is left of them.
    """

    def run(*arrays):
        closed, shapes = jax.make_jaxpr(arrange, return_shape=True)(*arrays)
        jaxpr, views = closed.jaxpr, {}  # variable -> an array and the order of its axes

        def write(variables: Iterable[Any], values: Iterable[Any]) -> None:
            for variable, x in zip(variables, values, strict=True):
                views[variable] = x, tuple(range(x.ndim))

        def read(atom: Any) -> tuple[Any, tuple[int, ...]]:
            return (atom.val, ()) if hasattr(atom, 'val') else views[atom]  # literals are scalars

        write((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *arrays))
        for eqn in jaxpr.eqns:
            if eqn.primitive is lax.transpose_p:
                x, order = read(eqn.invars[0])
                views[eqn.outvars[0]] = x, tuple(order[i] for i in eqn.params['permutation'])
            else:
                operands = [transpose(*read(atom)) for atom in eqn.invars]
                results = eqn.primitive.bind(*operands, **eqn.params)
                write(eqn.outvars, results if eqn.primitive.multiple_results else [results])
        results = [transpose(*read(atom)) for atom in jaxpr.outvars]
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def transpose(x: jax.Array, order: Sequence[int]) -> jax.Array:
    """Computes `lax.transpose(x, order)`, natively if x is large and the program allows it."""
    blocks = split(x.shape, order)
    if len(blocks) < 2 or not is_large(x) or not _is_allowed():
        return lax.transpose(x, order)
    before = sorted(blocks)
    among = [before.index(block) for block in blocks]
    sizes = [math.prod(x.shape[axis] for axis in block) for block in before]
    result = jax.ShapeDtypeStruct([sizes[i] for i in among], x.dtype)
    with jax.named_scope('transpose_native'):
        call = jax.ffi.ffi_call('cnn_jax_transpose', result)
        y = call(x.reshape(sizes), order=np.array(among, np.int64))
    return y.reshape([x.shape[axis] for axis in order])


def split(shape: Sequence[int], order: Sequence[int]) -> list[list[int]]:
    """Returns `order` in blocks of axes that stay together, without axes of size 1."""
    kept = [axis for axis, size in enumerate(shape) if size != 1]
    blocks: list[list[int]] = []
    for axis in order:
        if axis not in kept:
            continue
        if blocks and kept.index(blocks[-1][-1]) + 1 == kept.index(axis):
            blocks[-1].append(axis)
        else:
            blocks.append([axis])
    return blocks


def is_large(x: Any) -> bool:
    """Returns whether x is float32 and known to have at least `LARGE` elements."""
    is_static = all(isinstance(n, int) for n in x.shape)
    return is_static and x.dtype == 'float32' and math.prod(x.shape) >= LARGE


def _is_allowed() -> bool:
    if not internals.on_one_device() or internals.for_export():
        return False
    try:
        build.load()
    except build.Unavailable:
        return False
    return True

"""From a case to the JAX program that computes it."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from . import dtypes, views
from .cases import MESH, OPERATIONS, Case, operand_dtype, roles

Function = Callable[..., Any]


def program(case: Case, apply: Function | None = None) -> Function:
    """Returns the function of all stored arrays to the results, a tuple.

    Args:
        case: the case.
        apply: computes the operation instead of `lax`: (*operands) -> y.
    """
    operation, spec = OPERATIONS[case['op']], case['spec']
    out = dtypes.numpy_dtype(case['out']) if case['out'] else None
    run = apply or (lambda *operands: operation.apply(spec, out, *operands))
    count, loop, first = operation.OPERANDS, case['loop'], case['derivative_first']
    mapped = [o['mapped'] for o in case['operands']]
    # a bit cast has no derivative
    restore = _restore(case)
    if first or loop == 'none':
        inner = _derivative(run, case['derivative'], count)
        whole = _loop(lambda *operands: inner(*restore(operands)), loop, mapped)
    else:
        looped = _loop(lambda *operands: (run(*operands),), loop, mapped[:count])
        inner = _derivative(lambda *operands: looped(*operands)[0], case['derivative'], count)
        whole = lambda *operands: inner(*restore(operands))  # noqa: E731

    def compute(*arrays):
        operands = [_load(case, i, x) for i, x in enumerate(arrays)]
        return tuple(_post(case, y) for y in whole(*operands))

    return compute


def _load(case, i, x):
    operand = case['operands'][i]
    if 'shard' in case:
        x = _sharded(x, case['shard'][i])
    if operand['words']:
        x = lax.bitcast_convert_type(x, np.dtype(f'uint{8 * x.dtype.itemsize}'))
    return views.of_jax(x, operand['views'])


def _restore(case):
    names = [operand_dtype(case, role) for role in roles(case)]

    def restore(operands):
        return [
            lax.bitcast_convert_type(x, dtypes.numpy_dtype(name)) if o['words'] else x
            for x, name, o in zip(operands, names, case['operands'], strict=True)
        ]

    return restore


def _sharded(x, parts):
    devices = np.array(jax.devices()[: int(np.prod(list(MESH.values())))])
    mesh = jax.sharding.Mesh(devices.reshape(tuple(MESH.values())), tuple(MESH))
    spec = jax.sharding.PartitionSpec(*parts)
    return lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, spec))


def _derivative(run: Function, kind: str, count: int) -> Function:
    if kind == 'value':
        return lambda *operands: (run(*operands),)
    if kind == 'jvp':
        return lambda *operands: jax.jvp(run, operands[:count], operands[count:])
    run = jax.checkpoint(run) if kind == 'remat' else run

    def both(*operands):
        y, pull = jax.vjp(run, *operands[:count])
        return y, *pull(operands[count])

    return both


def _loop(f: Function, kind: str, mapped: list[int | None]) -> Function:
    """Maps f, which returns a tuple, over the operands that have an axis in `mapped`."""
    if kind == 'none':
        return f
    if kind == 'vmap':
        return jax.vmap(f, tuple(mapped))

    def scan(*operands):
        some = [x for x, axis in zip(operands, mapped, strict=True) if axis is not None]

        def with_slices(slices):
            slices = iter(slices)
            pairs = zip(operands, mapped, strict=True)
            return f(*(x if axis is None else next(slices) for x, axis in pairs))

        if kind == 'scan':
            return lax.scan(lambda _, s: ((), with_slices(s)), (), some)[1]
        shapes = jax.eval_shape(with_slices, [lax.index_in_dim(x, 0, 0, False) for x in some])
        zeros = tuple(lax.full(s.shape, 0, s.dtype) for s in shapes)
        add = lambda carry, s: (tuple(map(lax.add, carry, with_slices(s))), None)  # noqa: E731
        return lax.scan(add, zeros, some)[0]

    return scan


def _post(case, y):
    kind = case['post']
    if case.get('shard_result') and y.ndim:
        y = _sharded(y, ['a'] + [None] * (y.ndim - 1))
    if kind == 'relu':
        return lax.max(y, lax.full(y.shape, 0, y.dtype))
    if kind == 'negate':
        return lax.neg(y)
    if kind == 'double':
        return lax.add(y, y)
    if kind == 'reverse':
        return lax.rev(y, range(y.ndim))
    return lax.transpose(y, range(y.ndim)[::-1]) if kind == 'transpose' else y

"""Rewrites the gradient of other libraries' batch norm to two sums over the batch instead of three.

Flax and Haiku compute `(x - mean) * factor + bias`, whose gradient has the sums of `dy`, of
`(x - mean) * dy` and of `-(dy * factor)`. XLA:CPU fuses a sum with a product of two arrays, but not
with what computes these, so it writes `x - mean` and `dy * factor` to memory. Here, the second sum
is that of `x * dy` minus `mean` times that of `dy`, and the third is `-factor` times that of `dy`.

The difference of the second sum loses digits where the mean is large beside the deviation.
Therefore it replaces the sum only in programs whose variance is the mean of the squares minus the
square of the mean, which loses twice as many.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax import lax

from cnn_jax.ops.lowering import internals

Function = Callable[..., jax.Array]
Sum = tuple[Function, list[Any]]  # a function that computes it, and its operands


def read(summand: Any, axes: tuple[int, ...]) -> Sum | None:
    """Returns a function that computes the sum of `summand` over `axes`, and its operands.

    Args:
        summand: the value in the program that is summed.
        axes: the axes of the sum.

    Returns:
        None if the sum is not one of batch norm's gradient.
    """
    operation = internals.operation(summand)
    if _is(operation, 'negate'):
        if (found := read(operation.operands[0], axes)) is None:
            return None
        total, operands = found
        return lambda *operands: -total(*operands), operands
    if not _is(operation, 'multiply'):
        return None
    a, b = operation.operands
    return (
        _scaled(a, b, axes) or _scaled(b, a, axes) or _centred(a, b, axes) or _centred(b, a, axes)
    )


def _scaled(factor: Any, dy: Any, axes: tuple[int, ...]) -> Sum | None:
    """Reads the sum of `factor * dy` whose factor is constant, if that of `dy` is computed, too."""
    constant = _constant(factor, axes)
    if constant is None or not _is_summed(dy, axes):
        return None
    return lambda dy, v: constant.reduced(v) * dy.sum(axes), [dy, constant.value]


def _centred(factor: Any, dy: Any, axes: tuple[int, ...]) -> Sum | None:
    """Reads the sum of `(x - mean) * dy`, where `factor` is the difference."""
    operation = internals.operation(factor)
    if not _is(operation, 'subtract') or factor == dy:
        return None
    x, mean = operation.operands
    constant = _constant(mean, axes)
    if constant is None or not _is_of_fast_variance(mean):
        return None

    def total(x, dy, v):
        return (x * dy).sum(axes) - constant.reduced(v) * dy.sum(axes)

    return total, [x, dy, constant.value]


def _is_summed(value: Any, axes: tuple[int, ...]) -> bool:
    return any(
        _is(user, 'reduce') and (*user.attributes['dimensions'],) == axes
        for user in internals.users(value)
    )


class _Constant(NamedTuple):
    """A value, and the function that gives it the shape of a sum."""

    value: Any
    reduced: Function


def _constant(value: Any, axes: tuple[int, ...]) -> _Constant | None:
    """Returns what `value` repeats along all `axes`, or None if it may differ along them."""
    operation = internals.operation(value)
    if not _is(operation, 'broadcast_in_dim'):
        return None
    (operand,) = operation.operands
    into = [*operation.attributes['broadcast_dimensions']]
    sizes = internals.shape(operand)
    if not sizes or any(size > 1 and axis in axes for size, axis in zip(sizes, into, strict=True)):
        return None
    shape = [1 if i in axes else size for i, size in enumerate(internals.shape(value))]
    spread = lambda v: lax.squeeze(lax.broadcast_in_dim(v, shape, into), axes)  # noqa: E731
    return _Constant(operand, spread)


def _is_of_fast_variance(mean: Any) -> bool:
    """Returns whether the program subtracts the square of `mean` from something."""
    return any(
        _is(user, 'subtract') and user.operands[1] == square
        for value in _origins(mean)
        for square in _squares(value)
        for user in internals.users(square)
    )


def _origins(value: Any) -> Iterator[Any]:
    """Yields `value`, and the values that it repeats or reshapes."""
    yield value
    operation = internals.operation(value)
    if _is(operation, 'broadcast_in_dim') or _is(operation, 'reshape'):
        yield from _origins(operation.operands[0])


def _squares(value: Any) -> Iterator[Any]:
    for user in internals.users(value):
        is_product = _is(user, 'multiply') and user.operands[0] == user.operands[1]
        if is_product or user.name == 'chlo.square':
            yield user.results[0]


def _is(operation: Any, name: str) -> bool:
    return operation is not None and operation.name == f'stablehlo.{name}'

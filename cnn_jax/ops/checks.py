"""Checks of user arguments, shared by every operation.

Each error names the argument, its value and what is valid. Errors depend on static values only, so
they are the same inside and outside jit.
"""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.errors import UserError, UserTypeError


def integer(value: Any, name: str, minimum: int | None = None) -> int:
    """Returns `value` as a Python int; rejects bools, floats and traced values."""
    if isinstance(value, bool | np.bool_):
        raise UserTypeError(f'{name} must be an int, got the bool {value!r}')
    try:
        result = operator.index(value)
    except Exception:  # a tracer raises its own error here, which does not name the argument
        raise UserTypeError(
            f'{name} must be a static int, got {value!r} of type {type(value).__name__}'
        ) from None
    if minimum is not None and result < minimum:
        raise UserError(f'{name} must be at least {minimum}, got {result}')
    return result


def is_sequence(value: Any) -> bool:
    """Returns whether `value` has one element per axis; a 0-d array counts as a number."""
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str)


def per_axis(value: Any, n: int, name: str, minimum: int | None = 1) -> tuple[int, ...]:
    """Returns one int per spatial axis: repeats an int `n` times, or checks a sequence's length."""
    if isinstance(value, str):
        raise UserTypeError(f'{name} must be an int or {n} ints, got the string {value!r}')
    if not is_sequence(value):
        return (integer(value, name, minimum),) * n
    if len(value) != n:
        raise UserError(
            f'{name} must be an int or one int per spatial axis ({n}), got {tuple(value)!r}'
        )
    return tuple(integer(v, f'{name}[{i}]', minimum) for i, v in enumerate(value))


def pairs(value: Any, n: int, name: str, minimum: int | None = None) -> tuple[tuple[int, int], ...]:
    """Returns `(lo, hi)` per spatial axis from an int, one int per axis, or one pair per axis."""
    if is_sequence(value):
        if len(value) != n:
            raise UserError(
                f'{name} must have one int or one (lo, hi) pair per spatial axis ({n}), '
                f'got {value!r}'
            )
        result = []
        for i, item in enumerate(value):  # an int applies to both sides
            lo, hi = per_axis(item, 2, f'{name}[{i}]', minimum)
            result.append((lo, hi))
        return tuple(result)
    return ((integer(value, name, minimum),) * 2,) * n


def choice(value: Any, name: str, options: Sequence[str]) -> str:
    """Returns `value` if it is one of the strings `options`, else raises."""
    if not isinstance(value, str):
        raise UserTypeError(f'{name} must be one of {", ".join(options)}, got {value!r}')
    if value not in options:
        raise UserError(f'{name} must be one of {", ".join(options)}, got {value!r}')
    return value


def array(value: Any, name: str) -> jax.Array:
    """Returns `value` as a JAX array of floating-point or integer dtype."""
    try:
        if value is None:
            raise UserTypeError('no value')
        result = jnp.asarray(value)
    except TypeError as error:
        raise UserTypeError(
            f'{name} must be an array, got {type(value).__name__}: {error}'
        ) from None
    if not (
        jnp.issubdtype(result.dtype, jnp.floating) or jnp.issubdtype(result.dtype, jnp.integer)
    ):
        raise UserTypeError(f'{name} must be floating point or integer, got dtype {result.dtype}')
    return result


def same_dtype(**arrays: Any) -> None:
    """Checks that all arrays, given by argument name, have the same dtype; ignores None."""
    dtypes = {name: str(a.dtype) for name, a in arrays.items() if a is not None}
    if len(set(dtypes.values())) > 1:
        found = ', '.join(f'{name}: {dtype}' for name, dtype in dtypes.items())
        raise UserTypeError(f'all operands must have one dtype, cast them first; got {found}')

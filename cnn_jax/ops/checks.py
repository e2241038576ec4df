"""Checks of user arguments, shared by every operation.

Each error names the argument, its value and what would be right, and is raised from static values
only, so it is the same inside and outside jit.
"""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.errors import UserError, UserTypeError


def integer(value: Any, name: str, minimum: int | None = None) -> int:
    """`value` as a Python int; bools, floats and traced values are refused."""
    if isinstance(value, bool | np.bool_):
        raise UserTypeError(f'{name} must be an int, got the bool {value!r}')
    try:
        result = operator.index(value)
    except (
        Exception
    ):  # a tracer raises an error of its own here, which would hide the argument's name
        raise UserTypeError(
            f'{name} must be a static int, got {value!r} of type {type(value).__name__}'
        ) from None
    if minimum is not None and result < minimum:
        raise UserError(f'{name} must be at least {minimum}, got {result}')
    return result


def is_sequence(value: Any) -> bool:
    """Whether `value` has elements, one per axis; an array without axes is a number."""
    if isinstance(value, np.ndarray | jax.Array):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, str)


def per_axis(value: Any, n: int, name: str, minimum: int | None = 1) -> tuple[int, ...]:
    """One int per spatial axis: an int is repeated `n` times, a sequence must have length `n`."""
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
    """`(lo, hi)` per spatial axis from an int, one int per axis, or one pair per axis."""
    if is_sequence(value):
        if len(value) != n:
            raise UserError(
                f'{name} must have one int or one (lo, hi) pair per spatial axis ({n}), '
                f'got {value!r}'
            )
        result = []
        for i, item in enumerate(value):  # an int stands for both sides
            lo, hi = per_axis(item, 2, f'{name}[{i}]', minimum)
            result.append((lo, hi))
        return tuple(result)
    return ((integer(value, name, minimum),) * 2,) * n


def choice(value: Any, name: str, options: Sequence[str]) -> str:
    """`value`, one of the strings `options`."""
    if not isinstance(value, str):
        raise UserTypeError(f'{name} must be one of {", ".join(options)}, got {value!r}')
    if value not in options:
        raise UserError(f'{name} must be one of {", ".join(options)}, got {value!r}')
    return value


def array(value: Any, name: str) -> jax.Array:
    """`value` as a JAX array of a real number type (floating point or integer)."""
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
    """Raises unless all arrays (by argument name; None is passed over) have one dtype."""
    dtypes = {name: str(a.dtype) for name, a in arrays.items() if a is not None}
    if len(set(dtypes.values())) > 1:
        found = ', '.join(f'{name}: {dtype}' for name, dtype in dtypes.items())
        raise UserTypeError(f'all operands must have one dtype, cast them first; got {found}')

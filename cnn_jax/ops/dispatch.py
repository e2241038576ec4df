"""Resolves the `implementation` argument of every operation to names of kernels.

A name runs that kernel, or raises an error that says why it cannot. A sequence of names runs the
first kernel that supports the call. A mapping names kernels for each map of a convolution. None
selects the default. `use_implementation` sets the default for None; it is part of jit's cache key,
so functions are retraced under another choice.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import jax

from cnn_jax.errors import UserError, UserTypeError
from cnn_jax.ops import checks
from cnn_jax.ops.spec import MAPS
from cnn_jax.ops.types import Implementation

Names = tuple[str, ...]

# map of a convolution -> its kernels, in order of preference; missing maps use the default
Wish = dict[str, Names]

_context = jax.make_user_context(())

_OPERATIONS: dict[str, Mapping[str, Any]] = {}
_CONVOLUTIONS: set[str] = set()


def declare(op: str, kernels: Mapping[str, Any], convolution: bool = False) -> None:
    """Registers `op` and its kernels by name; includes kernels added to `kernels` later."""
    _OPERATIONS[op] = kernels
    if convolution:
        _CONVOLUTIONS.add(op)


@overload
def implementations(op: None = None) -> dict[str, Names]: ...


@overload
def implementations(op: str) -> Names: ...


def implementations(op: str | None = None) -> dict[str, Names] | Names:
    """Returns the kernels of `op`, or of every operation."""
    if op is None:
        return {op: tuple(kernels) for op, kernels in _OPERATIONS.items()}
    return tuple(_OPERATIONS[checks.choice(op, 'op', tuple(_OPERATIONS))])


@contextlib.contextmanager
def use_implementation(
    implementation: Implementation = None, /, **by_op: Implementation
) -> Iterator[None]:
    """Sets the default for `implementation=None` within this context.

    Args:
        implementation: the default for every operation that has a kernel of this name, or of one
            of these names; a mapping applies to every convolution.
        **by_op: the default for one operation, e.g. `conv='scan', max_pool=('reshape', 'shift')`;
            `implementations()` lists the operations and their kernels.

    Raises:
        ValueError: an unknown operation or kernel.
    """
    chosen = dict(_context.value)
    if isinstance(implementation, Mapping):
        everywhere: dict[str, Implementation] = dict.fromkeys(_CONVOLUTIONS, implementation)
        by_op = everywhere | by_op
    elif implementation is not None:
        names = _as_names('any operation', implementation, set().union(*_OPERATIONS.values()))
        for op, known in _OPERATIONS.items():
            if fitting := tuple(name for name in names if name in known):
                chosen[op] = fitting
    for op, value in by_op.items():
        implementations(op)
        chosen[op] = tuple(wish(op, value).items()) if isinstance(value, Mapping) else value
        if value is not None and not isinstance(value, Mapping):
            chosen[op] = _as_names(op, value, _OPERATIONS[op])
    with _context(tuple(sorted(chosen.items()))):
        yield


def names(op: str, implementation: Implementation) -> Names | Mapping | None:
    """Returns the names of the kernels that `op` may run, from the caller or the context."""
    if implementation is None:
        implementation = dict(_context.value).get(op)
        if implementation and not isinstance(implementation[0], str):
            return dict(implementation)
    if implementation is None or isinstance(implementation, Mapping):
        return implementation
    return _as_names(op, implementation, _OPERATIONS[op])


def wish(op: str, implementation: Implementation) -> Wish:
    """Returns the kernels that each map of a convolution may run; {} if all are allowed."""
    wanted = names(op, implementation)
    if isinstance(wanted, Mapping) and op not in _CONVOLUTIONS:
        raise UserTypeError(f'{op} does not accept a mapping of kernels, got {implementation!r}')
    if not isinstance(wanted, Mapping):
        return {} if wanted is None else dict.fromkeys(MAPS, wanted)
    for key in wanted:
        checks.choice(key, 'implementation key', MAPS)
    return {
        key: _as_names(op, wanted[key], _OPERATIONS[op])
        for key in MAPS
        if wanted.get(key) is not None
    }


def select(
    op: str,
    implementation: Implementation,
    reason_against: Callable[[str], str | None],
) -> str | None:
    """Returns the name of the kernel that `op` runs, or None if the operation chooses.

    Args:
        op: the operation's public name, for messages and for `use_implementation`.
        implementation: a name, several in order of preference, or None.
        reason_against: maps a kernel name to None if it supports this call, else to the reason.

    Raises:
        ValueError: an unknown name, or none of the named kernels supports the call.
    """
    wanted = names(op, implementation)
    if isinstance(wanted, Mapping):
        raise UserTypeError(f'{op} does not accept a mapping of kernels, got {implementation!r}')
    return None if wanted is None else first_supporting(op, wanted, reason_against)


def first_supporting(op: str, wanted: Names, reason_against: Callable[[str], str | None]) -> str:
    """Returns the first of the named kernels that supports a call.

    Raises:
        ValueError: no kernel supports the call; the message gives the reason for each.
    """
    reasons = {}
    for name in wanted:
        reason = reason_against(name)
        if reason is None:
            return name
        reasons[name] = reason
    listed = '; '.join(f'{name!r}: {reason}' for name, reason in reasons.items())
    raise UserError(f'{op} cannot run with implementation {listed}')


def _as_names(op: str, implementation: Implementation, known: Iterable[str]) -> Names:
    wanted = (implementation,) if isinstance(implementation, str) else implementation
    if not isinstance(wanted, Sequence) or not all(isinstance(n, str) for n in wanted):
        raise UserTypeError(
            f'implementation must be None, a name, or a sequence of names, got {implementation!r}'
        )
    if not wanted:
        raise UserError('implementation must name at least one kernel, got an empty sequence')
    for name in wanted:
        if name not in known:
            raise UserError(
                f'unknown implementation {name!r} of {op}; must be one of '
                f'{", ".join(sorted(known))}'
            )
    return tuple(wanted)

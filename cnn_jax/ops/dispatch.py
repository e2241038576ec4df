"""`implementation=` -> the name of a kernel: the one mechanism, for every operation.

A name runs that kernel or raises with its reason; a sequence of names runs the first that supports
the call; None is the default. `use_implementation` changes what None means, as part of the key of
jit's cache, so that a function is traced anew under another choice.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax

from cnn_jax.ops import checks

Implementation = str | Sequence[str] | None

_context = jax.make_user_context(())

_OPERATIONS: dict[str, tuple[str, ...]] = {}


def declare(op: str, names: Iterable[str]) -> None:
    """Makes `op` known, with the names of its kernels, in the default order of preference."""
    _OPERATIONS[op] = tuple(names)


def implementations(op: str | None = None) -> dict[str, tuple[str, ...]] | tuple[str, ...]:
    """The kernels of `op`, or of every operation."""
    if op is None:
        return dict(_OPERATIONS)
    return _OPERATIONS[checks.choice(op, 'op', tuple(_OPERATIONS))]


@contextlib.contextmanager
def use_implementation(
    implementation: Implementation = None, /, **by_op: Implementation
) -> Iterator[None]:
    """Within this context, what `implementation=None` means.

    Args:
        implementation: for every operation that has a kernel of (one of) these names.
        **by_op: for one operation, e.g. `conv='scan', max_pool=('reshape', 'shift')`;
            `implementations()` lists the operations and their kernels.

    Raises:
        ValueError: an unknown operation or kernel.
    """
    chosen = dict(_context.value)
    if implementation is not None:
        names = _as_names('any operation', implementation, set().union(*_OPERATIONS.values()))
        for op, known in _OPERATIONS.items():
            if fitting := tuple(name for name in names if name in known):
                chosen[op] = fitting
    for op, value in by_op.items():
        known = implementations(op)
        chosen[op] = None if value is None else _as_names(op, value, known)
    with _context(tuple(sorted(chosen.items()))):
        yield


def select(
    op: str,
    implementation: Implementation,
    reason_against: Callable[[str], str | None],
) -> str | None:
    """The name of the kernel that `op` runs; None if the choice is left to the operation.

    Args:
        op: the operation's public name, for messages and for `use_implementation`.
        implementation: a name, several in order of preference, or None.
        reason_against: kernel name -> None if it supports this call, else why not.

    Raises:
        ValueError: an unknown name, or none of the named kernels supports the call.
    """
    if implementation is None:
        implementation = dict(_context.value).get(op)
    if implementation is None:
        return None
    wanted = _as_names(op, implementation, _OPERATIONS[op])
    reasons = {}
    for name in wanted:
        reason = reason_against(name)
        if reason is None:
            return name
        reasons[name] = reason
    listed = '; '.join(f'{name!r}: {reason}' for name, reason in reasons.items())
    raise ValueError(f'{op} cannot run by implementation {listed}')


def _as_names(op: str, implementation: Implementation, known: Iterable[str]) -> tuple[str, ...]:
    wanted = (implementation,) if isinstance(implementation, str) else implementation
    if not isinstance(wanted, Sequence) or not all(isinstance(n, str) for n in wanted):
        raise TypeError(
            f'implementation must be None, a name, or a sequence of names, got {implementation!r}'
        )
    if not wanted:
        raise ValueError('implementation must name at least one kernel, got an empty sequence')
    for name in wanted:
        if name not in known:
            raise ValueError(
                f'implementation {name!r} is unknown to {op}: known are {", ".join(sorted(known))}'
            )
    return tuple(wanted)

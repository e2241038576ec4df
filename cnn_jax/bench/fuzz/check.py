"""Runs cases, many in one program, and compares them with the reference.

Compilation takes most of the time, and a program of many small operations compiles faster than as
many programs. A case that differs is run again in a program of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from . import expected
from .cases import Case, stored
from .programs import program


class Verdict(NamedTuple):
    kind: str  # right, refused (by JAX, while it traces), wrong, error (of XLA)
    message: str = ''
    company: bool = False  # whether it is wrong only in a program with other cases


Build = Callable[[Case], Callable[..., Any]]


def verdicts(cases: Sequence[Case], build: Build = program) -> list[Verdict]:
    """Checks cases in one program, and those that differ alone."""
    try:
        results = run(cases, build)
    except Exception as error:
        if len(cases) == 1:
            return [Verdict('error', first_line(error))]
        middle = len(cases) // 2
        halves = verdicts(cases[:middle], build), verdicts(cases[middle:], build)
        both = [*halves[0], *halves[1]]
        if any(v.kind == 'error' for v in both):
            return both
        return [Verdict('error', first_line(error), True), *both[1:]]
    found = [compare(case, result) for case, result in zip(cases, results, strict=True)]
    if len(cases) == 1:
        return found
    for i, verdict in enumerate(found):
        if verdict.kind == 'wrong':
            (alone,) = verdicts([cases[i]], build)
            found[i] = verdict._replace(company=True) if alone.kind == 'right' else alone
    return found


def compare(case: Case, result: Sequence[np.ndarray] | str) -> Verdict:
    if isinstance(result, str):
        return Verdict('refused', result)
    for i, (found, wanted) in enumerate(zip(result, expected.results(case), strict=True)):
        if message := expected.difference(found, wanted):
            return Verdict('wrong', f'result {i}: {message}')
    return Verdict('right')


def run(cases: Sequence[Case], build: Build = program) -> list[list[np.ndarray] | str]:
    """Returns the results of each case, or why JAX refuses to trace it."""
    arrays = [stored(case) for case in cases]
    refused: dict[int, str] = {}

    def compute(given):
        results = []
        for i, case in enumerate(cases):
            whole = iter(given[i])
            operands = [
                x if o['constant'] else next(whole)
                for x, o in zip(arrays[i], case['operands'], strict=True)
            ]
            try:
                results.append(build(case)(*map(as_traced, operands)))
            except Exception as error:
                refused[i] = first_line(error)
                results.append(())
        return results

    given = [
        [x for x, o in zip(some, case['operands'], strict=True) if not o['constant']]
        for some, case in zip(arrays, cases, strict=True)
    ]
    results = jax.device_get(jax.jit(compute)(given))
    return [refused.get(i, [np.asarray(y) for y in result]) for i, result in enumerate(results)]


def as_traced(x: Any) -> Any:
    """Makes a NumPy array a constant of the program; JAX would compute some views of it itself."""
    return jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x


def first_line(error: BaseException) -> str:
    line = next(iter(str(error).strip().splitlines()), '')
    return f'{type(error).__name__}: {line}'[:300]


def text(case: Case, build: Build = program) -> str:
    """Returns the StableHLO program of a case, with its constants."""
    arrays = stored(case)

    def compute(*given):
        whole = iter(given)
        operands = [
            x if o['constant'] else next(whole)
            for x, o in zip(arrays, case['operands'], strict=True)
        ]
        return build(case)(*map(as_traced, operands))

    given = [x for x, o in zip(arrays, case['operands'], strict=True) if not o['constant']]
    return jax.jit(compute).lower(*given).as_text()

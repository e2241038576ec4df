"""Checks a student's function: compares it with the right one, and with typical wrong ones.

An `Exercise` holds the right function, arguments to try, and wrong functions, each with the hint
for those who wrote it. An answer that returns what a wrong function returns gets its hint.
"""

import copy
import inspect
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Function = Callable[..., Any]
Case = tuple[Any, ...]  # the arguments of one call, by position
Results = list[np.ndarray]  # what one call returned: one array, or several


class Outcome(NamedTuple):
    """What a check found; true if the answer is right."""

    correct: bool
    message: str

    def __bool__(self) -> bool:
        return self.correct

    def _ipython_display_(self) -> None:
        """Shows nothing: the message is printed already."""


class Hint(Exception):
    """An answer is not right; the message says why."""


@dataclass(frozen=True)
class Exercise:
    """Prints whether a student's function is right, and if not, why.

    Attributes:
        name: the name of the student's function.
        right: a function that returns the right result: an array, a number, or a tuple of these.
        cases: returns the arguments of each call. Begin with a small one: messages quote it.
        verified: completes the sentence "correct: ..." with what the cases verify.
        shape: says how the shape of the result follows from the arguments.
        wrong: typical wrong functions, each with its hint. Each must differ from `right` and from
            the ones before it; the tests of the course check this. All run after a wrong answer,
            so what takes long needs small cases.
        tolerance: largest difference, relative to the largest right number.
        observe: calls the student's function with one case and returns what is compared, for
            answers that do not return it themselves, such as a function that builds a network.
    """

    name: str
    right: Function
    cases: Callable[[], Sequence[Case]]
    verified: str
    shape: str
    wrong: tuple[tuple[Function, str], ...]
    tolerance: float = 1e-4
    observe: Callable[[Function, Case], Any] = lambda function, case: function(*case)

    def __call__(self, answer: Any) -> Outcome:
        """Checks `answer`, a function or, where there are no arguments, its value."""
        try:
            self._check(answer)
            outcome = Outcome(True, f'correct: {self.verified}')
        except Hint as hint:
            outcome = Outcome(False, f'not yet: {hint}')
        print(outcome.message)
        return outcome

    def _check(self, answer: Any) -> None:
        cases = list(self.cases())
        function = self._function(answer, takes_value=cases == [()])
        wanted = [self._run(self.right, case) for case in cases]
        given: dict[int, Results] = {}
        refused: dict[int, Hint] = {}  # calls that raised, or returned no numbers
        for i, (case, right) in enumerate(zip(cases, wanted, strict=True)):
            try:
                given[i] = self._run(function, case, len(right))
            except Hint as hint:
                refused[i] = hint
        failed = [i for i in given if not self._same(given[i], wanted[i])]
        for which in (given, failed):  # second, an answer that is wrong in one branch only
            for wrong, mistake in self.wrong if failed else ():
                if all(self._same(given[i], self._run(wrong, cases[i])) for i in which):
                    raise Hint(mistake)
        if not failed and not refused:
            return
        first = min([*failed, *refused])
        case = cases[first]
        message = refused.get(first) or self._difference(given[first], wanted[first], case)
        names = _names(self.right, case)
        left = f'({names[0]},)' if len(names) == 1 else ', '.join(names)
        raise Hint(
            f'{message} To try it: {left} = check.{self.name}.cases()[{first}]'
            if names
            else message
        )

    def _function(self, answer: Any, takes_value: bool) -> Function:
        if callable(answer):
            return answer
        if takes_value and answer is not None and answer is not Ellipsis:
            return lambda: answer
        call = (
            '' if takes_value else f' Pass it without calling it: check.{self.name}({self.name}).'
        )
        wanted = 'number' if takes_value else 'function'
        raise Hint(f'{self.name} is {_kind(answer)}, not a {wanted}.{call}')

    def _run(self, function: Function, case: Case, count: int | None = None) -> Results:
        """Calls `function` and returns its results, `count` arrays."""
        arguments = copy.deepcopy(case)
        where = self._where(case)
        try:
            returned = self.observe(function, arguments)
        except Exception as error:
            reason = next(iter(str(error).splitlines()), '')
            line = _line_of(function, error)
            raise Hint(f'{type(error).__name__}: {reason}{line}{where}.') from error
        if returned is None or returned is Ellipsis:
            raise Hint(
                f'{self.name} returns nothing{where}. Fill in its body; the last line is `return` '
                'with the result.'
            )
        for before, after, name in zip(case, arguments, _names(self.right, case), strict=True):
            if isinstance(before, np.ndarray) and not np.array_equal(before, after, equal_nan=True):
                raise Hint(
                    f'{self.name} changes its argument {name}, which belongs to the caller. Work '
                    f'on a copy: {name} = {name}.copy().'
                )
        several = isinstance(returned, tuple) or (isinstance(returned, list) and count != 1)
        results = list(returned) if several else [returned]
        if count not in (None, len(results)):
            wanted = f'a tuple of {count}' if count != 1 else 'one array'
            found = f'a tuple of {len(results)}' if several else 'one value'
            raise Hint(f'{self.name} returns {found}{where}; wanted is {wanted}.')
        return [self._array(one, where) for one in results]

    def _array(self, value: Any, where: str) -> np.ndarray:
        try:
            array = np.asarray(value)
        except Exception:  # for example rows of different lengths
            array = np.empty(0, object)
        if array.dtype.kind not in 'biuf' and array.dtype.name != 'bfloat16':
            raise Hint(f'{self.name} returns {_kind(value)}{where}; wanted are real numbers.')
        return array.astype(np.float64)

    def _same(self, given: Results, wanted: Results) -> bool:
        return len(given) == len(wanted) and all(
            a.shape == b.shape and bool(self._close(a, b).all())
            for a, b in zip(given, wanted, strict=True)
        )

    def _close(self, given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0) or 1.0
        return np.isclose(given, wanted, rtol=0, atol=self.tolerance * scale, equal_nan=True)

    def _difference(self, given: Results, wanted: Results, case: Case) -> str:
        where = self._where(case)
        i = next(i for i, one in enumerate(given) if not self._same([one], [wanted[i]]))
        a, b = given[i], wanted[i]
        which = f'result {i + 1} of {len(wanted)}' if len(wanted) > 1 else 'the result'
        if a.shape != b.shape:
            return f'{which} has the shape {a.shape}, wanted is {b.shape}{where}. {self.shape}'
        unset = np.isnan(a) & ~np.isnan(b)
        if unset.any():
            return (
                f'{which} has NaN{_position(unset)}{where}: look for 0 / 0, for the root of a '
                'negative number, and for memory that np.empty leaves unset.'
            )
        differs = ~self._close(a, b)
        at = tuple(np.argwhere(differs)[0])
        many = f'; {differs.sum()} of {differs.size} numbers differ' if differs.size > 1 else ''
        return f'{which} is {a[at]:.6g}{_position(differs)}, wanted is {b[at]:.6g}{where}{many}.'

    def _where(self, case: Case) -> str:
        """Describes a case: short values as they are, arrays by shape, others by type."""
        shown = [
            f'{name} of shape {shape}'
            if isinstance(shape := getattr(value, 'shape', ()), tuple) and shape
            else f'{name} = {_short(value)}'
            for name, value in zip(_names(self.right, case), case, strict=True)
        ]
        return f' for {", ".join(shown)}' if shown else ''


def _names(function: Function, case: Case) -> list[str]:
    return list(inspect.signature(function).parameters)[: len(case)]


def _short(value: Any, limit: int = 60) -> str:
    shown = str(getattr(value, '__name__', value))
    return shown if len(shown) <= limit else f'a {type(value).__name__}'


def _kind(value: Any) -> str:
    if value is None or value is Ellipsis:
        return str(value)
    return f'a value of type {type(value).__name__}'


def _position(where: np.ndarray) -> str:
    return f' at [{", ".join(map(str, np.argwhere(where)[0]))}]' if where.ndim else ''


def _line_of(function: Function, error: Exception) -> str:
    """Quotes the line of the student's code that was running when the error was raised."""
    file = getattr(getattr(inspect.unwrap(function), '__code__', None), 'co_filename', None)
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f' (line {lines[-1].lineno}: {lines[-1].line})' if lines and lines[-1].line else ''

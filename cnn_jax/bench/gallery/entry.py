"""Defines an entry of the gallery, what a run of it finds, and the verdict."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

SIDES = ('lax', 'ours', 'PyTorch')
KINDS = ('correctness', 'speed')


@dataclasses.dataclass(frozen=True)
class Entry:
    """A public thread, what it claims in our own words, and a situation that shows it.

    Attributes:
        reference: 'owner/repository#number'.
        claim: one sentence.
        kind: 'correctness' or 'speed'.
        problem: the situation as a string (see `cnn_jax.bench.kernels.problem`); or ''.
        small: a smaller problem of the same kind, for tests; '' means `problem` itself.
        direction, dtype: the pass and dtype of `problem`.
        program: the situation as a function. In a correctness entry, it takes nothing and returns
            (result, expected result). In a speed entry, it takes `small` and returns a `Case`.
        torch: for a correctness entry with a program: the same in PyTorch, given the module torch.
        ours: for a correctness entry with a program: a function that returns the result of this
            package; None means the program itself after `cnn_jax.install()`.
        has_ours: whether this package has an operation for the situation.
        subject: the side that the claim is about, one of `SIDES`.
        against: what a speed claim compares the subject with: a side, or 'baseline'.
        ratio: the claim holds if the subject takes at least `ratio` times as long.
        what: 'run' or 'compile', the time that a speed claim is about.
        by_design: the claim is about a documented choice of its library, which is not a fault.
        remark: what a reader of the table should know.
        notes: what else is known about a fault, for its report.
        environment: variables of the process of its own in which the program must run; None if it
            can run in this one.
        x64: whether it needs 64-bit types.
    """

    reference: str
    claim: str
    kind: str
    problem: str = ''
    small: str = ''
    direction: str = 'forward'
    dtype: str = 'float32'
    program: Callable[..., Any] | None = None
    torch: Callable[[Any], Any] | None = None
    ours: Callable[[], Any] | None = None
    has_ours: bool = True
    subject: str = 'lax'
    against: str = 'PyTorch'
    ratio: float = 2.0
    what: str = 'run'
    by_design: bool = False
    remark: str = ''
    notes: str = ''
    environment: dict[str, str] | None = None
    x64: bool = False

    @property
    def address(self) -> str:
        """Address of the thread. GitHub redirects from an issue to a pull request."""
        repository, number = self.reference.split('#')
        return f'https://github.com/{repository}/issues/{number}'

    @property
    def name(self) -> str:
        """The problem string, or the program's name in words."""
        return self.problem or (self.program.__name__.replace('_', ' ') if self.program else '')


@dataclasses.dataclass(frozen=True)
class Case:
    """A program of a speed entry: functions of the same operands, to check and to time.

    Attributes:
        function: the situation, a function of JAX arrays.
        operands: NumPy arrays.
        expected: returns the result in float64.
        baseline: another function and its operands, which the claim compares `function` with.
        ours: this package's own function; None means `function` after `cnn_jax.install()`.
        torch, torch_baseline: given the module torch, return a function without arguments that
            computes the same in PyTorch.
        tolerance: of the relative error; None means that of the result's dtype.
    """

    function: Callable[..., Any]
    operands: tuple[np.ndarray, ...]
    expected: Callable[[], np.ndarray] | None = None
    baseline: tuple[Callable[..., Any], tuple[np.ndarray, ...]] | None = None
    ours: Callable[..., Any] | None = None
    torch: Callable[[Any], Callable[[], Any]] | None = None
    torch_baseline: Callable[[Any], Callable[[], Any]] | None = None
    tolerance: float | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one side does in the situation of an entry.

    Attributes:
        right: whether the result is right; None if there is no result to check.
        error: relative error against float64.
        reason: why the result is wrong or missing.
        seconds, baseline: time of the situation and of its baseline.
    """

    right: bool | None = None
    error: float | None = None
    reason: str = ''
    seconds: float | None = None
    baseline: float | None = None


def checked(got: Any, expected: Any, tolerance: float | None = None) -> Finding:
    """Compares a result with the expected one: shape, kind of dtype, special values, error.

    Args:
        got: the result.
        expected: NumPy array; NaN and infinity must be in the same places in both.
        tolerance: of the relative error; None means 100 times the spacing of the dtype of `got`.
    """
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        return Finding(False, None, f'shape {got.shape}, expected {expected.shape}')
    exact = np.issubdtype(expected.dtype, np.integer)
    if exact and not np.issubdtype(got.dtype, np.integer):
        return Finding(False, None, f'dtype {got.dtype}, expected integers')
    wide = np.complex128 if np.iscomplexobj(expected) else np.float64
    here, there = got.astype(wide), expected.astype(wide)
    finite = np.isfinite(there)
    if not np.array_equal(here[~finite], there[~finite], equal_nan=True):
        return Finding(False, None, 'NaN or infinity in the wrong places')
    scale = float(np.linalg.norm(there[finite])) or 1.0
    error = float(np.linalg.norm(here[finite] - there[finite])) / scale
    if tolerance is None:
        tolerance = 0.0 if exact else 100 * _eps(got.dtype)
    return Finding(bool(error <= tolerance), error)


def _eps(dtype) -> float:
    import jax.numpy as jnp

    return float(jnp.finfo(dtype).eps)


def verdict(entry: Entry, findings: Mapping[str, Finding]) -> str:
    """Returns 'still so', 'gone', or 'not measured'.

    A correctness claim holds if the subject's result is wrong or missing. A speed claim holds if
    the subject takes at least `entry.ratio` times as long as what it is compared with.
    """
    subject = findings.get(entry.subject, Finding())
    if entry.kind == 'correctness':
        if subject.right is None:
            return 'not measured'
        return 'gone' if subject.right else 'still so'
    ratio = slowness(entry, findings)
    if ratio is None:
        return 'not measured'
    return 'still so' if ratio >= entry.ratio else 'gone'


def slowness(entry: Entry, findings: Mapping[str, Finding]) -> float | None:
    """Returns how many times as long the subject of a speed claim takes; None if unknown."""
    subject = findings.get(entry.subject, Finding())
    if entry.against == 'baseline':
        other = subject.baseline
    else:
        other = findings.get(entry.against, Finding()).seconds
    return subject.seconds / other if subject.seconds and other else None


def number(entry: Entry) -> tuple[str, int]:
    """Sort key: repository, then number."""
    match = re.fullmatch(r'([\w.-]+/[\w.-]+)#(\d+)', entry.reference)
    if not match:
        raise ValueError(f'reference {entry.reference!r}: write owner/repository#number')
    return match[1], int(match[2])

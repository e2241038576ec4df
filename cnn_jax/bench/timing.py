"""Wall-clock time of JAX functions: compilation, first call and steady state, kept apart.

A machine is never the same twice: candidates that are to be compared are timed in turns (round
robin), so that a slow second hits all of them, and the median of the rounds with its spread is
reported, never a best case.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from cnn_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds. `steady` has one sample a round: the mean of the calls of that round."""

    compile: float
    first: float
    steady: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.steady))

    @property
    def iqr(self) -> float:
        """Interquartile range: a spread that one disturbed round does not change."""
        low, high = np.percentile(self.steady, (25, 75))
        return float(high - low)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A function compiled for its arguments, and what that took (`compile`, `first`: seconds)."""

    call: Callable[[], Any]
    compile: float
    first: float
    result: Any


def compile(function: Callable, *args: Any) -> Compiled:
    """Compiles `function` (traceable, or a jitted one) for `args` and runs it once.

    Raises whatever tracing, compiling or running raises.
    """
    start = time.perf_counter()
    executable = jax.jit(function).lower(*args).compile()
    compiled = time.perf_counter()
    result = jax.block_until_ready(executable(*args))
    first = time.perf_counter()
    return Compiled(lambda: executable(*args), compiled - start, first - compiled, result)


def steady(
    candidates: Mapping[str, Compiled],
    *,
    rounds: int = 5,
    sample: float = 0.01,
    limit: float = 2.0,
) -> dict[str, Timing]:
    """Times compiled functions in turns.

    Args:
        candidates: name -> compiled function, each already run once.
        rounds: samples of each candidate.
        sample: seconds a sample should last: fast functions are called several times, on an
            accelerator without waiting in between, so that it is measured and not the dispatch.
        limit: seconds a candidate may use in all; a slower one gets fewer rounds (at least one).

    Returns:
        name -> Timing, in the order of `candidates`.
    """
    if rounds < 1:
        raise UserError(f'rounds must be at least 1, got {rounds}')
    calls, wanted = {}, {}
    for name, candidate in candidates.items():
        # The first call after compilation pays for page faults and cold caches: a second one tells.
        once = candidate.first if candidate.first > limit else _seconds(candidate.call, 1)
        calls[name] = max(1, round(sample / max(once, 1e-9)))
        wanted[name] = max(1, min(rounds, int(limit / (calls[name] * max(once, 1e-9)))))
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds):
        for name, candidate in candidates.items():
            if turn < wanted[name]:
                samples[name].append(_seconds(candidate.call, calls[name]))
    return {
        name: Timing(candidate.compile, candidate.first, tuple(samples[name]))
        for name, candidate in candidates.items()
    }


def _seconds(call: Callable[[], Any], count: int) -> float:
    # Accelerators run calls one after the other. On a CPU calls that nobody waits for run beside
    # each other, in memory that is fresh each time: several times slower than as steps of training.
    wait_for_each = jax.default_backend() == 'cpu'
    start = time.perf_counter()
    for _ in range(count):
        result = call()
        if wait_for_each:
            jax.block_until_ready(result)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / count


def measure(
    functions: Mapping[str, Callable],
    *args: Any,
    rounds: int = 5,
    sample: float = 0.01,
    limit: float = 2.0,
) -> dict[str, Timing]:
    """Compiles functions of the same `args` and times them in turns; see `steady`."""
    compiled = {name: compile(function, *args) for name, function in functions.items()}
    return steady(compiled, rounds=rounds, sample=sample, limit=limit)

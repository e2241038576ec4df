"""Measures the wall-clock time of JAX functions: compilation, first call and steady state.

The speed of a machine varies over time. Candidates are therefore timed in turns (round robin), so
that a slow period affects all of them. The median of the rounds is reported with its spread, never
the best case.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import machine
from cnn_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Timing:
    """Times in seconds. `steady` has one sample per round: the mean over the calls of the round."""

    compile: float
    first: float
    steady: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.steady))

    @property
    def iqr(self) -> float:
        """Interquartile range, a measure of spread that is robust to a single outlier."""
        low, high = np.percentile(self.steady, (25, 75))
        return float(high - low)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A function compiled for its arguments, with the seconds to compile it and to run it first."""

    call: Callable[[], Any]
    compile: float
    first: float
    result: Any


def compile(function: Callable, *args: Any) -> Compiled:
    """Compiles `function` (traceable or already jitted) for `args` and runs it once.

    Exceptions raised while tracing, compiling or running propagate to the caller.
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
    cold_cache: bool = False,
    give_up: float = math.inf,
) -> dict[str, Timing]:
    """Times compiled functions in turns.

    Args:
        candidates: name -> compiled function; each function has already run once.
        rounds: number of samples per candidate.
        sample: target duration of a sample in seconds. Fast functions are called several times per
            sample. On an accelerator the calls are not awaited one by one, so that the sample
            measures execution rather than dispatch.
        limit: total seconds per candidate; a slower candidate gets fewer rounds (at least one).
        cold_cache: whether to empty the caches before each call, which is not part of the time.
            Each call is then awaited, so that on an accelerator its time includes the dispatch.
        give_up: a candidate whose second call took more than this many times that of the fastest
            has this call as its only sample.

    Returns:
        name -> Timing, in the order of `candidates`.
    """
    if rounds < 1:
        raise UserError(f'rounds must be at least 1, got {rounds}')
    before = _evict(cache_bytes()) if cold_cache else None
    once = {
        # The first call after compilation includes page faults and cold caches, so time a second.
        name: candidate.first if candidate.first > limit else _seconds(candidate.call, 1, before)
        for name, candidate in candidates.items()
    }
    slow = give_up * min(once.values(), default=0.0)
    calls, wanted, samples = {}, {}, {}
    for name, seconds in once.items():
        calls[name] = max(1, round(sample / max(seconds, 1e-9)))
        wanted[name] = max(1, min(rounds, int(limit / (calls[name] * max(seconds, 1e-9)))))
        samples[name] = []
        if seconds > slow:
            wanted[name], samples[name] = 0, [seconds]
    for turn in range(rounds):
        for name, candidate in candidates.items():
            if turn < wanted[name]:
                samples[name].append(_seconds(candidate.call, calls[name], before))
    return {
        name: Timing(candidate.compile, candidate.first, tuple(samples[name]))
        for name, candidate in candidates.items()
    }


def _seconds(
    call: Callable[[], Any], count: int, before: Callable[[], None] | None = None
) -> float:
    if before:
        return sum(_once(call, before) for _ in range(count)) / count
    # Accelerators run calls one after the other. On a CPU, calls that are not awaited run
    # concurrently, each in newly allocated memory: several times slower than in training steps. A
    # result that is kept while the next one is computed makes that use new memory, too.
    wait_for_each = jax.default_backend() == 'cpu'
    result = None
    start = time.perf_counter()
    for _ in range(count):
        if wait_for_each:
            jax.block_until_ready(call())
        else:
            result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / count


def _once(call: Callable[[], Any], before: Callable[[], None]) -> float:
    before()
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def cache_bytes() -> int:
    """Returns a size in bytes that is larger than every cache of the device."""
    if jax.default_backend() == 'cpu':
        return 2 * machine.last_level_cache()
    return 512 << 20  # GPUs have up to 256 MB (AMD's Infinity Cache); a TPU has no such cache


def _evict(size: int) -> Callable[[], None]:
    """Returns a function that reads and writes `size` bytes of the device's memory."""
    update = jax.jit(lambda x: x + 1, donate_argnums=0)
    state = [update(jnp.zeros(size // 4, jnp.float32))]

    def run() -> None:
        state[0] = jax.block_until_ready(update(state[0]))

    return run


def measure(
    functions: Mapping[str, Callable],
    *args: Any,
    rounds: int = 5,
    sample: float = 0.01,
    limit: float = 2.0,
) -> dict[str, Timing]:
    """Compiles functions that take the same `args` and times them in turns; see `steady`."""
    compiled = {name: compile(function, *args) for name, function in functions.items()}
    return steady(compiled, rounds=rounds, sample=sample, limit=limit)

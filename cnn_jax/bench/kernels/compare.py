"""Checks every kernel on a problem: whether it is supported, how accurate it is and how fast.

A convolution has three passes: forward and two gradients. A transposed convolution uses the same
three maps in other roles (see `cnn_jax.ops.spec.ROLES`), so the same code measures both.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.bench import timing
from cnn_jax.bench.kernels import pool_reference, reference
from cnn_jax.bench.kernels.problem import POOLS, Problem, parse
from cnn_jax.errors import UserError, first_line, optional_packages
from cnn_jax.ops import dispatch, kernels, tuning
from cnn_jax.ops.platforms import default_platform
from cnn_jax.ops.spec import MAPS as PASSES
from cnn_jax.ops.spec import ROLES
from cnn_jax.ops.tuning.table import Times

# The map of the ConvSpec that computes each pass.
MAPS = {
    'conv': {name: name for name in PASSES},
    'conv_transpose': {
        'forward': 'input_grad',
        'input_grad': 'forward',
        'filter_grad': 'filter_grad',
    },
}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A kernel for one pass of a problem, before it is run."""

    kernel: str
    reason: str  # why it cannot run; '' if it can
    chosen: bool  # whether `implementation=None` runs it
    function: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Result of one kernel on one pass of a problem. If it has no time, `reason` says why.

    Attributes:
        problem, dtype, kernel: what was measured.
        direction: 'forward', 'input_grad' or 'filter_grad'.
        chosen: whether `implementation=None` runs this kernel.
        reason: why there is no time; '' otherwise.
        error: ||result - reference|| / ||reference|| against float64.
        tolerance: the largest error that rounding can explain.
        checked: the part of the result that was checked; '' means all of it.
        compile_s, first_s: seconds to compile and of the first call.
        steady_s, iqr_s: median seconds per call and their interquartile range.
        gflops: 10^9 operations of the direct form per second.
        bytes: minimum memory traffic; operands are read and the result is written once.
        intensity: operations of the direct form per byte.
    """

    problem: str
    dtype: str
    direction: str
    kernel: str
    chosen: bool
    reason: str = ''
    error: float | None = None
    tolerance: float | None = None
    checked: str = ''
    compile_s: float | None = None
    first_s: float | None = None
    steady_s: float | None = None
    iqr_s: float | None = None
    rounds: int = 0
    gflops: float | None = None
    bytes: int = 0
    intensity: float = 0.0

    @property
    def right(self) -> bool | None:
        """Whether the error is within the tolerance; None if there is no result."""
        return None if self.error is None else bool(self.error <= self.tolerance)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {'right': self.right}


def passes(problem: Problem) -> tuple[str, ...]:
    """Returns the passes of a problem; a pool has no filter and so no filter gradient."""
    return PASSES[:2] if problem.op in POOLS else PASSES


def _one_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes `function` run NumPy on one thread.

    NumPy's other threads would busy-wait for a tenth of a second after computing the reference, on
    the cores on which the kernels are timed.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with optional_packages('bench'):
            from threadpoolctl import threadpool_limits
        with threadpool_limits(limits=1, user_api='blas'):
            return function(*args, **kwargs)

    return run


@_one_thread
def measure(
    problem: Problem,
    direction: str,
    dtype: str = 'float32',
    *,
    names: Sequence[str] | None = None,
    precision: Any = None,
    rounds: int = 5,
    limit: float = 2.0,
    cold_cache: bool = False,
    give_up: float = math.inf,
    check_macs: float = 5e8,
    seed: int = 0,
) -> list[Measurement]:
    """Checks and times every kernel on one pass of `problem`.

    Args:
        problem: what to compute, on standard normal operands rounded to `dtype`, or on integers
            of its full range.
        direction: one of `passes(problem)`.
        dtype: dtype of the operands and the result; int8 gives int32.
        names: kernels to measure; 'default' is the one that `implementation=None` runs. None means
            all kernels of the operation.
        precision: as in jax.lax.
        rounds, limit, cold_cache, give_up: see `timing.steady`. With 0 rounds, kernels are checked
            but not timed.
        check_macs: multiply-adds to spend on the float64 reference. For larger problems only a part
            of the result is checked (see `reference.part`).
        seed: random seed of the operands.

    Returns:
        One measurement per kernel, in the order of the operation's table.

    Raises:
        ValueError: `direction` is not a pass of the problem.
    """
    if direction not in passes(problem):
        raise UserError(f'pass must be one of {", ".join(passes(problem))}, got {direction!r}')
    operands, check, candidates = (_pool if problem.op in POOLS else _conv)(
        problem, direction, dtype, precision, check_macs, np.random.default_rng(seed)
    )
    itemsize = jnp.dtype(dtype).itemsize
    common = {
        'problem': str(problem),
        'dtype': dtype,
        'direction': direction,
        'bytes': problem.bytes(itemsize),
        'intensity': problem.flops / problem.bytes(itemsize),
    }
    compiled, found = {}, {}
    for candidate in candidates:
        if names and not _is_wanted(candidate, names):
            continue
        row = common | {'kernel': candidate.kernel, 'chosen': candidate.chosen}
        if not candidate.reason:
            try:
                made = timing.compile(candidate.function, *operands)
                row |= check(made.result)
                compiled[candidate.kernel] = dataclasses.replace(made, result=None)
            except Exception as error:  # reported as the result of this kernel
                row['reason'] = f'failed: {first_line(error)}'
        else:
            row['reason'] = candidate.reason
        found[candidate.kernel] = row
    timings = {}
    if rounds:
        effort = {'rounds': rounds, 'limit': limit, 'cold_cache': cold_cache, 'give_up': give_up}
        timings = timing.steady(compiled, **effort)
    for kernel, made in compiled.items():
        found[kernel] |= {'compile_s': made.compile, 'first_s': made.first}
        if timed := timings.get(kernel):
            found[kernel] |= {
                'steady_s': timed.median,
                'iqr_s': timed.iqr,
                'rounds': len(timed.steady),
                'gflops': problem.flops / timed.median / 1e9,
            }
    return [Measurement(**row) for row in found.values()]


def _is_wanted(candidate: Candidate, names: Sequence[str]) -> bool:
    return candidate.kernel in names or (candidate.chosen and 'default' in names)


def check_kernels(problems: Sequence[Problem], names: Sequence[str]) -> None:
    """Raises ValueError unless each name is 'default' or a kernel for one of the problems."""
    known = ['default', *(name for p in problems for name in dispatch.implementations(p.op))]
    for name in names:
        if name not in known:
            listed = ', '.join(dict.fromkeys(known))
            raise UserError(f'unknown kernel {name!r}; must be one of {listed}')


def best(rows: Sequence[Measurement]) -> Measurement | None:
    """Returns the fastest correct measurement; None if there is none."""
    return min((r for r in rows if r.right and r.steady_s), key=lambda r: r.steady_s, default=None)


def choices(rows: Sequence[Measurement], precision: Any = None) -> dict[str, dict[str, Times]]:
    """Returns the times of correct kernels for `tuning.table.save`: spec key -> map -> times."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        problem = parse(row.problem)
        if row.right and row.steady_s and problem.op in MAPS:
            key = tuning.table.key(problem.spec(row.dtype, precision))
            op = MAPS[problem.op][row.direction]
            found.setdefault(key, {}).setdefault(op, {})[row.kernel] = row.steady_s
    return found


def _conv(problem, direction, dtype, precision, check_macs, rng):
    spec = problem.spec(dtype, precision)
    op = MAPS[problem.op][direction]
    a, b = (_draw(rng, spec.shape(role), dtype) for role in ROLES[op][:2])
    smaller, part_a, part_b, cut, note = reference.part(
        op, spec, np.asarray(a), np.asarray(b), check_macs
    )
    expected = reference.MAPS[op](part_a, part_b, smaller)
    tolerance = reference.tolerance(multiplied_in(dtype, precision), spec, op)

    def check(result):
        return {
            'error': reference.relative_error(cut(np.asarray(result)), expected),
            'tolerance': tolerance,
            'checked': note,
        }

    chosen, _ = tuning.choose(op, spec, default_platform())

    def candidates() -> Iterator[Candidate]:
        for name in dispatch.implementations(problem.op):
            reason = kernels.reason_against(name, op, spec) or ''
            function = None if reason else _bound(kernels.function(name, op), spec)
            yield Candidate(name, reason, name == chosen, function)

    return (a, b), check, candidates()


def _bound(function, spec):
    return lambda a, b: function(a, b, spec)


def _pool(problem, direction, dtype, precision, check_macs, rng):
    del precision
    x = _draw(rng, (problem.batch, *problem.input_size, problem.in_features), dtype)
    dy = _draw(rng, (problem.batch, *problem.output_size, problem.in_features), dtype)
    examples = max(1, min(problem.batch, int(problem.batch * check_macs / problem.macs)))
    part = problem.replace(batch=examples)
    note = '' if examples == problem.batch else f'{examples} of {problem.batch} examples'
    expected = pool_reference.MAPS[direction](
        np.asarray(x)[:examples], np.asarray(dy)[:examples], part
    )

    def check(result):
        error = reference.relative_error(np.asarray(result)[:examples], expected)
        return {'error': error, 'tolerance': 4 * float(jnp.finfo(dtype).eps), 'checked': note}

    candidates = [
        Candidate(name, reason, False, function)
        for name, reason, function in pool_reference.functions(
            problem, direction, dispatch.implementations(problem.op), x
        )
    ]
    return (x, dy), check, candidates


def multiplied_in(dtype: str, precision: Any) -> str:
    """Returns the dtype whose rounding error products of `dtype` operands may have.

    Accelerators multiply float32 in TF32 or bfloat16 unless a higher precision is requested.
    """
    asked = precision if precision is not None else jax.config.jax_default_matmul_precision
    full = jax.devices()[0].platform == 'cpu' or str(asked).lower() in (
        'highest', 'float32', 'precision.highest',
    )  # fmt: skip
    return dtype if full or dtype != 'float32' else 'bfloat16'


def _draw(rng, shape, dtype):
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        return jnp.asarray(rng.integers(limits.min, limits.max, shape, dtype, endpoint=True))
    return jnp.asarray(rng.standard_normal(shape, np.float32)).astype(dtype)

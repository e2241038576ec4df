"""Estimates kernels and training steps for a TPU that need not be there, from compiled programs.

Every figure is the compiler's estimate or a count of its instructions. Nothing is timed.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding
from tqdm import tqdm

from cnn_jax.bench.kernels.compare import MAPS
from cnn_jax.bench.kernels.problem import POOLS, Problem
from cnn_jax.bench.tpu import aot, bundles, cycles
from cnn_jax.errors import UserError, first_line
from cnn_jax.ops import dispatch, kernels, tuning
from cnn_jax.ops.platforms import tracing_for
from cnn_jax.ops.spec import ROLES, ConvSpec
from cnn_jax.training.job import Job, batch_shapes

FAILED = 'does not compile'
FEW_FEATURES = 16  # below, a matrix of patches has clearly more columns than the input


@dataclasses.dataclass(frozen=True)
class Record:
    """The compiler's figures for one kernel on one map of a problem.

    Attributes:
        problem, direction, dtype, kernel, chip: what was compiled.
        chosen: whether `implementation=None` runs this kernel there.
        reason: why there is no figure; '' otherwise.
        microseconds: estimated cycles over the clock; None where a part of the program is a Pallas
            kernel, which has no estimate.
        copies_microseconds: the part that only changes the layout of arrays.
        bundles_microseconds: bundles of the final schedule over the clock, another scale; None if
            not counted.
        memory_bytes: temporaries.
        operations: number of operations of the program.
        roof_microseconds: the larger of the operations of the direct form over the peak, and bytes
            over bandwidth if every operand is read and the result written once.
    """

    problem: str
    direction: str
    dtype: str
    kernel: str
    chip: str
    chosen: bool
    roof_microseconds: float
    reason: str = ''
    microseconds: float | None = None
    copies_microseconds: float | None = None
    bundles_microseconds: float | None = None
    memory_bytes: int | None = None
    operations: int | None = None


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """The compiler's figures for a training step with one choice of kernels; see `Record`."""

    model: str
    choice: str
    dtype: str
    chip: str
    batch_size: int
    reason: str = ''
    microseconds: float | None = None
    copies_microseconds: float | None = None
    memory_bytes: int | None = None
    operations: int | None = None


def run(
    chip: str,
    tasks: Sequence[tuple[Problem, str, str]],
    jobs: Sequence[Job],
    wanted: Sequence[str],
    batch_size: int,
    save: Callable[[list[Record], list[StepRecord]], str],
    *,
    count_all: bool = False,
) -> str:
    """Estimates kernels and training steps, with a progress bar; returns what `save` does.

    Args:
        chip: one of `aot.CHIPS`.
        tasks: problem, dtype and direction of each pass.
        jobs: the training steps, see `steps.make_job`.
        wanted: kernels, and 'default'; empty means all that `is_sensible` keeps.
        batch_size: number of examples per step.
        save: called with all records so far after each pass and step, since compiling takes long.
        count_all: whether to count the bundles of every kernel; see `with_bundles`.

    Raises:
        ValueError: the chip is unknown, or a problem is a pool.
        MissingPackageError: libtpu is not installed.
    """
    slice_ = aot.one_chip(chip)
    for problem, _, _ in tasks:
        if problem.op in POOLS:
            raise UserError(f'aot compiles convolutions, not {problem.op}: {problem}')
    aot.tpu_devices(slice_)
    records: list[Record] = []
    with tqdm(tasks, unit='pass', disable=None, leave=False) as bar:
        for problem, dtype, direction in bar:
            bar.set_description(f'{problem} {direction}')
            records += estimate(problem, direction, dtype, chip, wanted)
            save(records, [])
    records = with_bundles(records, count_all)
    choices = tuple(dict.fromkeys(['lax', 'default', *(wanted or ())]))
    steps_: list[StepRecord] = []
    compiled: dict[str, dict[str, Any]] = {}
    with tqdm([(j, c) for j in jobs for c in choices], unit='step', disable=None) as bar:
        for job, choice in bar:
            bar.set_description(f'step of {job.config.model} {choice}')
            steps_.append(estimate_step(job, batch_size, chip, choice, compiled))
            save(records, steps_)
    return save(records, steps_)


def is_sensible(name: str, op: str, spec: ConvSpec) -> bool:
    """Returns whether a kernel is worth compiling for a TPU if the caller names none.

    Compiling takes seconds. Left out are loops over taps, Fourier and Winograd transforms, which
    cost a TPU more than the products that they save, native code for CPUs, and kernels where they
    come down to XLA's own or to products that reread everything.
    """
    match name:
        case 'scan' | 'fft' | 'winograd' | 'interior' | 'onednn':
            return False
        case 'shift':
            return spec.is_depthwise
        case 'im2col':
            return op == 'filter_grad' or spec.in_features < FEW_FEATURES
        case 'subpixel':
            return op == 'input_grad' and max(spec.strides) > 1
    return True


def estimate(
    problem: Problem, direction: str, dtype: str, chip: str, wanted: Sequence[str] = ()
) -> Iterator[Record]:
    """Yields a record for each kernel on one pass of a problem.

    Args:
        problem: a convolution or its transpose.
        direction: 'forward', 'input_grad' or 'filter_grad'.
        dtype: dtype of operands and result.
        chip: one of `aot.CHIPS`.
        wanted: kernels, and 'default'; empty means all that `is_sensible` keeps.
    """
    spec, op = problem.spec(dtype), MAPS[problem.op][direction]
    chosen, _ = tuning.choose(op, spec, 'tpu')
    kind = aot.one_chip(chip).chip
    common = {
        'problem': str(problem), 'direction': direction, 'dtype': dtype, 'chip': chip,
        'roof_microseconds': roof(problem, dtype, kind),
    }  # fmt: skip
    for name in dispatch.implementations(problem.op):
        named = name in wanted or ('default' in wanted and name == chosen)
        if not (named if wanted else is_sensible(name, op, spec)):
            continue
        what = common | {'kernel': name, 'chosen': name == chosen}
        if reason := kernels.reason_against(name, op, spec, 'tpu'):
            yield Record(**what, reason=reason)
            continue
        try:
            compiled = compile_kernel(chip, problem, dtype, direction, name)
        except Exception as error:  # reported as the result of this kernel
            yield Record(**what, reason=f'{FAILED} for {chip}: {first_line(error)}')
            continue
        yield Record(**what, **_figures(compiled, kind))


def roof(problem: Problem, dtype: str, chip: aot.Chip) -> float:
    """Returns the microseconds below which no direct form of a problem can be.

    The peak is that of bfloat16 products, in which XLA multiplies float32 by default, too.
    """
    bytes_ = problem.bytes(jax.numpy.dtype(dtype).itemsize)
    return 1e6 * max(problem.flops / chip.flops, bytes_ / chip.hbm_bandwidth)


def compile_kernel(
    chip: str, problem: Problem, dtype: str, direction: str, kernel: str
) -> jax.stages.Compiled:
    """Compiles one kernel for one pass of a problem.

    The compiler chooses the layouts of operands and result, as it does between the operations of a
    network. With row-major operands, most kernels would be charged for copies.
    """
    spec, op = problem.spec(dtype), MAPS[problem.op][direction]
    function = kernels.function(kernel, op)
    sharding = SingleDeviceSharding(aot.tpu_devices(aot.one_chip(chip))[0])
    free = Format(Layout.AUTO, sharding)
    jitted = jax.jit(lambda a, b: function(a, b, spec), in_shardings=free, out_shardings=free)
    with tracing_for('tpu'):
        return jitted.lower(*_operands(spec, op)).compile()


def _operands(spec: ConvSpec, op: str) -> list[jax.ShapeDtypeStruct]:
    dtype = spec.operand_dtype or spec.dtype
    return [jax.ShapeDtypeStruct(spec.shape(role), dtype) for role in ROLES[op][:2]]


def _figures(compiled: jax.stages.Compiled, chip: aot.Chip) -> dict[str, Any]:
    found = cycles.read(compiled.as_text())
    figures = {
        'memory_bytes': compiled.memory_analysis().temp_size_in_bytes,
        'operations': found.operations,
    }
    if found.kernels:
        return figures
    return figures | {
        'microseconds': 1e6 * found.cycles / chip.clock,
        'copies_microseconds': 1e6 * found.copies / chip.clock,
    }


def with_bundles(records: Sequence[Record], count_all: bool = False) -> list[Record]:
    """Adds counted bundles to all kernels of the passes in which one is a Pallas kernel.

    With `count_all`, of all passes.
    """
    place = lambda r: (r.problem, r.direction, r.dtype)  # noqa: E731
    is_wanted = lambda r: r.operations and (count_all or r.microseconds is None)  # noqa: E731
    passes = {place(r) for r in records if is_wanted(r)}
    wanted = [r for r in records if r.operations and place(r) in passes]
    fields = ('chip', 'problem', 'dtype', 'direction', 'kernel')
    results = bundles.counted([{name: getattr(r, name) for name in fields} for r in wanted])
    found = {}
    for record, result in zip(wanted, results, strict=True):
        clock = aot.CHIPS[record.chip].clock
        if 'bundles' in result:
            changes = {'bundles_microseconds': 1e6 * result['bundles'] / clock}
        else:
            changes = {'reason': f'bundles were not counted: {result["reason"]}'}
        found[id(record)] = dataclasses.replace(record, **changes)
    return [found.get(id(record), record) for record in records]


def estimate_step(
    job: Job, batch_size: int, chip: str, choice: str, compiled: dict[str, dict[str, Any]]
) -> StepRecord:
    """Compiles the training step of a job, with one choice of kernels for all its convolutions.

    Args:
        job: see `steps.make_job`.
        batch_size: number of examples per step.
        chip: one of `aot.CHIPS`.
        choice: 'default' for the rules, or a kernel for every map that it supports.
        compiled: figures of programs by their text; a program in it is not compiled again.
    """
    slice_, config = aot.one_chip(chip), job.config
    devices = job.devices.all(aot.tpu_devices(slice_))
    what = {
        'model': config.model, 'choice': choice, 'dtype': config.dtype, 'chip': chip,
        'batch_size': batch_size,
    }  # fmt: skip
    step = dataclasses.replace(job, devices=devices).step()
    try:
        with _chosen(choice):
            batch = batch_shapes(job.dataset, batch_size)
            lowered = aot.lower_step(step, job.state_like(), batch, devices)
        text = lowered.as_text()
        if text not in compiled:
            compiled[text] = _figures(lowered.compile(), slice_.chip)
    except Exception as error:  # reported as the result of this choice
        return StepRecord(**what, reason=first_line(error))
    return StepRecord(**what, **compiled[text])


def _chosen(choice: str) -> contextlib.AbstractContextManager[None]:
    if choice == 'default':
        return contextlib.nullcontext()
    return dispatch.use_implementation(tuple(dict.fromkeys((choice, 'lax'))))

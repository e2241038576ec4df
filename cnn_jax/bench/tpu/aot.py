"""A training step compiled ahead of time for TPUs, on a machine without one.

    report = compile_step(step, state, batch, SLICES['v5e-16'])
    print(report.hbm_bytes, report.flops, report.collectives)

The TPU compiler comes with the package libtpu (the extra `tpu`); nothing runs on any device, so
memory, operations and collectives are what the compiler says, and times are nobody's here.
"""

import collections
import contextlib
import dataclasses
import math
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax.errors import MissingPackageError, UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Documented figures of one chip.

    Attributes:
        hbm_bytes: memory that the compiler lets a program have (its own message: 15.75 GiB of a
            v5e's 16 GB).
        flops: peak of bf16 matrix products, operations per second.
        hbm_bandwidth: bytes per second.
        link_bandwidth: between chips, both directions together, all links, bytes per second.
        per_host: chips of one full host.
        host_network: bytes per second into one host.

    Source: docs.cloud.google.com/tpu/docs/v5e and /v6e, read in November 2026. For v6e's host
    network, which is not given there, v5e's is assumed.
    """

    name: str
    hbm_bytes: float
    flops: float
    hbm_bandwidth: float
    link_bandwidth: float
    per_host: int = 8
    host_network: float = 2 * 100e9 / 8


V5E = Chip('v5e', 15.75 * GIB, 197e12, 819e9, 400e9)
V6E = Chip('v6e', 31.25 * GIB, 918e12, 1638e9, 800e9)


@dataclasses.dataclass(frozen=True)
class Slice:
    """A group of chips that is hired as one: its grid, and the chip."""

    name: str
    grid: tuple[int, int]
    chip: Chip

    @property
    def chips(self) -> int:
        return math.prod(self.grid)


SLICES = {
    f'{chip.name}-{math.prod(grid)}': Slice(f'{chip.name}-{math.prod(grid)}', grid, chip)
    for chip in (V5E, V6E)
    for grid in ((1, 1), (2, 2), (4, 4), (8, 8), (16, 16))
}


@dataclasses.dataclass(frozen=True)
class Collective:
    """The collectives of one kind in one step: how many, and bytes of their results on one chip."""

    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Report:
    """The compiler's report on one step on one chip.

    Attributes:
        chips: how many take part.
        batch_size: examples in a step, over all chips.
        hbm_bytes: arguments, results and temporaries, with shared memory counted once.
        temporary_bytes: of these, temporaries.
        flops: operations of one chip in one step; a multiply-add is two.
        accessed_bytes: memory traffic of one chip in one step, as the compiler counts it.
        collectives: by kind ('all-reduce', ...).
        seconds: what compiling took.
    """

    chips: int
    batch_size: int
    hbm_bytes: int
    temporary_bytes: int
    flops: float
    accessed_bytes: float
    collectives: dict[str, Collective]
    seconds: float

    @property
    def collective_bytes(self) -> int:
        return sum(c.bytes for c in self.collectives.values())

    @property
    def collective_count(self) -> int:
        return sum(c.count for c in self.collectives.values())


class DoesNotFit(Exception):
    """The step needs more memory than the chip has; `needed` and `available` in bytes."""

    def __init__(self, needed: float, available: float):
        super().__init__(
            f'needs {needed / GIB:.2f} GiB, the chip has {available / GIB:.2f} GiB for a program'
        )
        self.needed, self.available = needed, available


def tpu_devices(slice_: Slice) -> Sequence[jax.Device]:
    """Descriptions of the slice's chips, to compile for.

    Raises:
        ImportError: libtpu is not installed.
    """
    # Read by libtpu when it is loaded: ask no metadata server, open no chip, allow other processes.
    for name, value in {
        'TPU_SKIP_MDS_QUERY': '1',
        'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
        'TPU_WORKER_HOSTNAMES': 'localhost',
        'TPU_WORKER_ID': '0',
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    }.items():
        os.environ.setdefault(name, value)
    try:
        import libtpu  # noqa: F401
        from jax.experimental import topologies
    except ImportError as error:
        raise MissingPackageError(
            "compiling for TPUs needs libtpu: pip install 'cnn_jax[tpu]' or launch/check_tpu.sh"
        ) from error
    # One chip does not fill the default host of 2 x 2.
    host = {'chips_per_host_bounds': (1, 1, 1)} if slice_.chips == 1 else {}
    grid = 'x'.join(map(str, slice_.grid))
    return topologies.get_topology_desc(f'{slice_.chip.name}:{grid}', 'tpu', **host).devices


def compile_step(
    step: Callable, state: Any, batch: Any, slice_: Slice, *, optimize: bool = False
) -> Report:
    """Compiles `step(state, batch)` for a slice: the state on every chip, the batch shared out.

    Args:
        step: the step's body, (state, batch) -> (state, metrics).
        state: its shapes and dtypes (arrays or `jax.ShapeDtypeStruct`).
        batch: likewise, of the global batch; axis 0 is divided among the chips.
        slice_: one of `SLICES`.
        optimize: compile as for a run. Otherwise with the least optimisation: 3 to 20 times faster,
            with the same operations and collectives; the temporaries of a large model agree, those
            of a small one are overstated.

    Raises:
        ImportError: libtpu is not installed.
        DoesNotFit: more memory needed than there is.
        ValueError: the batch cannot be divided.
    """
    lowered = lower_step(step, state, batch, tpu_devices(slice_))
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    report = compile_lowered(lowered, slice_.chips, max(sizes), optimize=optimize)
    # The compiler refuses what exceeds the memory by temporaries alone.
    if report.hbm_bytes > slice_.chip.hbm_bytes:
        raise DoesNotFit(report.hbm_bytes, slice_.chip.hbm_bytes)
    return report


def lower_step(
    step: Callable, state: Any, batch: Any, devices: Sequence[jax.Device]
) -> jax.stages.Lowered:
    """`step` traced for data parallelism over `devices` (of any kind), its state donated."""
    mesh = Mesh(np.array(devices), ('data',))
    whole, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec('data'))
    for leaf in jax.tree.leaves(batch):
        if leaf.shape[0] % len(devices):
            raise UserError(
                f'batch_size={leaf.shape[0]} does not divide by the {len(devices)} chips'
            )
    jitted = jax.jit(step, donate_argnums=0, out_shardings=whole)
    return jitted.lower(_abstract(state, whole), _abstract(batch, rows))


def compile_lowered(
    lowered: jax.stages.Lowered, chips: int, batch_size: int, *, optimize: bool = False
) -> Report:
    """Compiles what `lower_step` gave and reads the compiler's figures.

    Raises:
        DoesNotFit: the compiler ran out of the chip's memory.
    """
    start = time.perf_counter()
    with _optimization(optimize):
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if sizes := re.search(r'\((\S+)\) exceeds available HBM \((\S+)\)', str(error)):
                raise DoesNotFit(*map(_bytes, sizes.groups())) from None
            raise
    seconds = time.perf_counter() - start
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    own = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Report(
        chips=chips,
        batch_size=batch_size,
        hbm_bytes=memory.argument_size_in_bytes + own + memory.temp_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        flops=cost.get('flops', math.nan),
        accessed_bytes=cost.get('bytes accessed', math.nan),
        collectives=collectives(compiled.as_text()),
        seconds=seconds,
    )


def largest_batch(compile_batch: Callable[[int], Report], start: int, grain: int = 8) -> Report:
    """The report of the largest batch per chip that fits, in multiples of `grain`, by bisection.

    Args:
        compile_batch: batch per chip -> report, or raises DoesNotFit.
        start: a first size to try, per chip.

    Raises:
        DoesNotFit: even `grain` examples need too much.
    """
    best, fits, fails = None, 0, None
    size = max(grain, start // grain * grain)
    while fails is None or fails - fits > grain:
        try:
            best, fits = compile_batch(size), size
        except DoesNotFit:
            if size <= grain:
                raise
            fails = size
        size = 2 * fits if fails is None else max(grain, (fits + fails) // 2 // grain * grain)
    return best


_WIDTH = {'pred': 8, 'bf16': 16}
_SHAPE = re.compile(r'\b([a-z]+\d*)\[([\d,]*)\]')
_COLLECTIVE = re.compile(
    r'^\s*(?:ROOT )?%?\S+ = (.*?) '
    r'(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\('
)


def collectives(hlo: str) -> dict[str, Collective]:
    """The collectives of a compiled program's text: by kind, their number and result bytes.

    One that stands in a loop is counted once.
    """
    counts, sizes = collections.Counter(), collections.Counter()
    for line in hlo.splitlines():
        if match := _COLLECTIVE.match(line):
            result, kind, start = match.groups()
            arrays = [_array_bytes(*shape) for shape in _SHAPE.findall(result)]
            # Two-part collectives (but not all-reduce) carry operand and result in one tuple.
            counts[kind] += 1
            sizes[kind] += max(arrays) if start and kind != 'all-reduce' else sum(arrays)
    return {kind: Collective(counts[kind], sizes[kind]) for kind in sorted(counts)}


def _array_bytes(dtype: str, dims: str) -> int:
    width = _WIDTH.get(dtype) or int(re.sub(r'\D', '', dtype) or 0)
    return width * math.prod(int(d) for d in dims.split(',') if d) // 8


def _bytes(text: str) -> float:
    """'26.34G' -> bytes."""
    return float(text[:-1]) * 1024 ** (' KMGT'.index(text[-1]))


def _abstract(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


@contextlib.contextmanager
def _optimization(full: bool):
    if full:
        yield
        return
    before = jax.config.jax_optimization_level
    jax.config.update('jax_optimization_level', 'O0')
    try:
        yield
    finally:
        jax.config.update('jax_optimization_level', before)


def export_step(
    step: Callable, state: Any, batch: Any, platforms: Sequence[str]
) -> jax.export.Exported:
    """A step lowered for `platforms` ('cpu', 'cuda', 'rocm', 'tpu'), none of which need be here.

    That needs no compiler and no device: it says that every operation has a lowering there. What is
    exported takes and gives the leaves of (state, batch) and of the step's result, in JAX's order;
    `.serialize()` makes bytes of it that `jax.export.deserialize` reads on the other machine.

    Args:
        step: (state, batch) -> (state, metrics).
        state, batch: shapes and dtypes, as in `compile_step`.
        platforms: several give one program with a part for each.

    Raises:
        ValueError: for 'cpu', a step that the native kernel computes: it is of one machine.
    """
    leaves, structure = jax.tree.flatten((state, batch))

    def flat(*leaves):
        return jax.tree.leaves(step(*jax.tree.unflatten(structure, leaves)))

    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    return jax.export.export(jax.jit(flat), platforms=list(platforms))(*shapes)


def operations(exported: jax.export.Exported) -> collections.Counter[str]:
    """Counts each StableHLO operation of an exported program ('convolution', ...)."""
    return collections.Counter(re.findall(r'\bstablehlo\.(\w+)', exported.mlir_module()))

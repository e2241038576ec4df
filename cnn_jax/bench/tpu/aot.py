"""Compiles a training step ahead of time for TPUs, on a machine without a TPU.

    report = compile_step(step, state, batch, SLICES['v5e-16'])
    print(report.hbm_bytes, report.flops, report.collectives)

The TPU compiler comes with the package libtpu (the extra `tpu`). Nothing runs on a device: memory,
operations and collectives are the compiler's figures, and no execution time is measured.
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

from cnn_jax.errors import MissingPackageError, UserError
from cnn_jax.training.devices import Devices

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Documented figures of one chip.

    Attributes:
        hbm_bytes: memory that the compiler allows a program to use (its error message states 15.75
            GiB of a v5e's 16 GB).
        flops: peak operations per second of bf16 matrix products.
        hbm_bandwidth: bytes per second.
        link_bandwidth: bytes per second between chips, summed over all links and both directions.
        per_host: number of chips per full host.
        host_network: bytes per second into one host.
        flops_per_cycle: operations per cycle of its matrix units, so that `clock` follows.
        axes: number of axes of a slice's grid.

    Source: docs.cloud.google.com/tpu/docs/v5e, /v5p and /v6e, read in November 2026. They do not
    state the host network of a v6e, so that of a v5e is assumed. `flops_per_cycle` counts units of
    128 x 128 (v5) or 256 x 256 multipliers; it is the power of two just above what the compiler's
    estimated cycles for a large product imply (115,044, 236,349 and 369,231).
    """

    name: str
    hbm_bytes: float
    flops: float
    hbm_bandwidth: float
    link_bandwidth: float
    per_host: int = 8
    host_network: float = 2 * 100e9 / 8
    flops_per_cycle: int = 2**17
    axes: int = 2

    @property
    def clock(self) -> float:
        """Cycles per second."""
        return self.flops / self.flops_per_cycle


V5E = Chip('v5e', 15.75 * GIB, 197e12, 819e9, 400e9)
V5P = Chip('v5p', 95 * GIB, 459e12, 2765e9, 1200e9, per_host=4, flops_per_cycle=2**18, axes=3)
V6E = Chip('v6e', 31.25 * GIB, 918e12, 1638e9, 800e9, flops_per_cycle=2**19)
CHIPS = {chip.name: chip for chip in (V5E, V5P, V6E)}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A group of chips that is rented as a unit: its grid and its kind of chip."""

    name: str
    grid: tuple[int, ...]
    chip: Chip

    @property
    def chips(self) -> int:
        return math.prod(self.grid)


SLICES = {
    f'{chip.name}-{math.prod(grid)}': Slice(f'{chip.name}-{math.prod(grid)}', grid, chip)
    for chip in (V5E, V6E)
    for grid in ((1, 1), (2, 2), (2, 4), (4, 4), (8, 8), (16, 16))
}


def one_chip(name: str) -> Slice:
    """Returns a slice of one chip.

    Raises:
        ValueError: the chip is unknown.
    """
    if name not in CHIPS:
        raise UserError(f'aot={name!r}: must be one of {", ".join(CHIPS)}')
    chip = CHIPS[name]
    return Slice(f'{name}-1', (1,) * chip.axes, chip)


@dataclasses.dataclass(frozen=True)
class Collective:
    """Number of collectives of one kind in one step, and bytes of their results on one chip.

    Attributes:
        chips: number of chips that communicate with each other, or None for all of them.
    """

    count: int
    bytes: int
    chips: int | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """The compiler's report on one step on one chip.

    Attributes:
        chips: number of chips that take part.
        batch_size: examples per step, over all chips.
        hbm_bytes: arguments, results and temporaries, with shared memory counted once.
        temporary_bytes: the part of `hbm_bytes` that is temporaries.
        flops: operations per chip and step; a multiply-add counts as two.
        accessed_bytes: memory traffic per chip and step, as the compiler counts it.
        collectives: the collectives by kind ('all-reduce', 'all-reduce of 4 chips', ...).
        seconds: compile time.
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


class DoesNotFit(Exception):
    """The step needs more memory than the chip has; `needed` and `available` are in bytes."""

    def __init__(self, needed: float, available: float):
        super().__init__(
            f'needs {needed / GIB:.2f} GiB, the chip has {available / GIB:.2f} GiB for a program'
        )
        self.needed, self.available = needed, available


def tpu_devices(slice_: Slice) -> Sequence[jax.Device]:
    """Returns descriptions of the slice's chips, for the compiler.

    Raises:
        ImportError: libtpu is not installed.
    """
    # libtpu reads these when it loads. They make it query no metadata server, open no chip and
    # allow other processes.
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
    step: Callable,
    state: Any,
    batch: Any,
    slice_: Slice,
    *,
    devices: Devices | None = None,
    optimize: bool = False,
) -> Report:
    """Compiles `step(state, batch)` for a slice, with the state replicated and the batch sharded.

    Args:
        step: the function to compile, (state, batch) -> (state, metrics).
        state: arrays or `jax.ShapeDtypeStruct` with the shapes and dtypes of the state.
        batch: likewise for the global batch; axis 0 is divided among the chips.
        slice_: one of `SLICES`.
        devices: the mesh of the slice's chips; by default they divide the batch alone.
        optimize: whether to optimise fully, as for a run. The lowest optimisation level compiles 3
            to 20 times faster and gives the same operations and collectives. Its temporaries agree
            for a large model and are overstated for a small one.

    Raises:
        ImportError: libtpu is not installed.
        DoesNotFit: the step needs more memory than the chip has.
        ValueError: the batch or its images do not fit the mesh.
    """
    devices = devices or Devices.all(tpu_devices(slice_))
    lowered = lower_step(step, state, batch, devices)
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    report = compile_lowered(lowered, slice_.chips, max(sizes), optimize=optimize)
    # The compiler itself only rejects programs whose temporaries alone exceed the memory.
    if report.hbm_bytes > slice_.chip.hbm_bytes:
        raise DoesNotFit(report.hbm_bytes, slice_.chip.hbm_bytes)
    return report


def lower_step(step: Callable, state: Any, batch: Any, devices: Devices) -> jax.stages.Lowered:
    """Lowers `step` for a mesh of devices of any kind, with the state donated.

    Raises:
        UserError: the batch or its images cannot be divided among the devices.
    """
    for leaf in jax.tree.leaves(batch):
        devices.check_batch(leaf.shape[0])
        if leaf.ndim > 2:
            devices.check_strips(leaf.shape[1:])
    abstract = lambda leaf, lie: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=lie)  # noqa: E731
    return devices.jit(step).lower(
        jax.tree.map(lambda leaf: abstract(leaf, devices.replicated), state),
        jax.tree.map(lambda leaf: abstract(leaf, devices.rows(ndim=leaf.ndim)), batch),
    )


def compile_lowered(
    lowered: jax.stages.Lowered, chips: int, batch_size: int, *, optimize: bool = False
) -> Report:
    """Compiles the result of `lower_step` and reads the compiler's figures.

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
    """Finds the largest batch per chip that fits, by bisection in multiples of `grain`.

    Args:
        compile_batch: maps the batch per chip to a report, or raises DoesNotFit.
        start: first batch per chip to try.
        grain: step between batches.

    Returns:
        The report of the largest batch.

    Raises:
        DoesNotFit: even a batch of `grain` examples per chip does not fit.
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


_PARTITIONS = re.compile(r'\bnum_partitions=(\d+)')
# The first group in full ({{0,1},{2,3}}), or the number of groups and their size ([2,2]<=[4]), or a
# mesh and those of its axes that form a group (mesh['a'=2,'b'=2] {'b'}).
_GROUPS = re.compile(
    r'replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\]|mesh\[([^\]]*)\] *\{([^}]*)\})'
)


def collectives(hlo: str) -> dict[str, Collective]:
    """Returns the number and result bytes of each kind of collective in a compiled program's text.

    Those among some of the chips are a kind of their own: 'all-reduce of 4 chips'. A collective
    inside a loop is counted once.
    """
    found = _PARTITIONS.search(hlo)
    everything = int(found[1]) if found else None
    counts, sizes = collections.Counter(), collections.Counter()
    for line in hlo.splitlines():
        if match := _COLLECTIVE.match(line):
            result, kind, start = match.groups()
            arrays = [_array_bytes(*shape) for shape in _SHAPE.findall(result)]
            # Asynchronous collectives except all-reduce return operand and result in one tuple.
            key = kind, _group(line, everything)
            counts[key] += 1
            sizes[key] += max(arrays) if start and kind != 'all-reduce' else sum(arrays)
    return {
        kind if chips is None else f'{kind} of {chips} chips': Collective(
            counts[kind, chips], sizes[kind, chips], chips
        )
        for kind, chips in sorted(counts, key=str)
    }


def _group(line: str, everything: int | None) -> int | None:
    """Returns the number of chips that communicate with each other, or None for all of them."""
    match = _GROUPS.search(line)
    if match is None or everything is None:
        return None
    listed, size_text, mesh, axes = match.groups()
    if listed:
        size = listed.count(',') + 1
    elif size_text:
        size = int(size_text)
    else:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh))
        size = math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", axes))
    return None if size == everything else size


def _array_bytes(dtype: str, dims: str) -> int:
    width = _WIDTH.get(dtype) or int(re.sub(r'\D', '', dtype) or 0)
    return width * math.prod(int(d) for d in dims.split(',') if d) // 8


def _bytes(text: str) -> float:
    """Converts a size such as '26.34G' to bytes."""
    return float(text[:-1]) * 1024 ** (' KMGT'.index(text[-1]))


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
    """Exports a step lowered for `platforms` ('cpu', 'cuda', 'rocm', 'tpu').

    The platforms need not be present: exporting needs no compiler and no device. It shows that
    every operation has a lowering for the platforms. The exported function takes the leaves of
    (state, batch) and returns the leaves of the step's result, in JAX's order. `.serialize()`
    converts it to bytes that `jax.export.deserialize` reads on the other machine.

    Args:
        step: the function to export, (state, batch) -> (state, metrics).
        state, batch: shapes and dtypes, as in `compile_step`.
        platforms: target platforms; for several, the program contains a part for each.

    Raises:
        ValueError: `platforms` contains 'cpu' and the step uses the native kernel, which is
            specific to one machine.
    """
    leaves, structure = jax.tree.flatten((state, batch))

    def flat(*leaves):
        return jax.tree.leaves(step(*jax.tree.unflatten(structure, leaves)))

    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    return jax.export.export(jax.jit(flat), platforms=list(platforms))(*shapes)


def operations(exported: jax.export.Exported) -> collections.Counter[str]:
    """Counts each StableHLO operation of an exported program ('convolution', ...)."""
    return collections.Counter(re.findall(r'\bstablehlo\.(\w+)', exported.mlir_module()))

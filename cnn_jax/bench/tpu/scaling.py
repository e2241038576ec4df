"""Estimates weak scaling: the time per step, from the compiler's report and documented figures.

Nothing here is measured on an accelerator. A step takes the sum of

    compute      flops / (efficiency x the chip's peak)
    collectives  bytes sent by one chip / its links' bandwidth  +  count x hops x latency of one

XLA overlaps a part of these, so the estimated efficiency is a lower bound. An all-reduce sends
2 (n - 1) / n of its bytes from each of n chips. It consists of a reduce-scatter and an all-gather
in rings and sends the minimum possible (Patarasuk and Yuan, "Bandwidth optimal all-reduce
algorithms for clusters of workstations", 2009, section 2). A collective-permute, as between the
strips of an image, sends its bytes over one link to a neighbour. Other collectives send (n - 1) / n
of their bytes. Those among n of the chips of a slice are taken to run along a line of n chips.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from cnn_jax.bench.tpu.aot import Chip, Collective, Report, Slice
from cnn_jax.errors import UserError

LINKS_PER_CHIP = 4  # of a two-dimensional torus
WRAPS_AT = 16  # a shorter axis is a line, not a ring (a full pod of v5e or v6e wraps)


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """Assumptions for figures that neither the compiler nor a data sheet provides.

    Attributes:
        efficiency: share of the peak that the step's arithmetic reaches.
        hop_seconds: latency of a message from one chip to the next.
        example_bytes: size of a stored example (ImageNet: 138 GB / 1.28 million JPEG files).
        storage_bandwidth: bytes per second at which one host writes a checkpoint.
    """

    efficiency: float = 0.4
    hop_seconds: float = 1e-6
    example_bytes: float = 108e3
    storage_bandwidth: float = 1e9

    def __post_init__(self):
        if not 0 < self.efficiency <= 1:
            raise UserError(f'efficiency={self.efficiency} must be in (0, 1]')


@dataclasses.dataclass(frozen=True)
class Row:
    """Estimated times and rates of a step on one slice.

    Attributes:
        slice: name of the slice.
        batch_size: examples per step, over all chips.
        compute: seconds of arithmetic.
        transfer: seconds of collectives due to bandwidth.
        latency: seconds of collectives due to latency.
        examples_per_second: rate over all chips.
        host_examples_per_second: rate at which each host must read, decode and transfer examples.
        host_network_share: share of a host's network bandwidth needed to read examples.
    """

    slice: str
    batch_size: int
    compute: float
    transfer: float
    latency: float
    examples_per_second: float
    host_examples_per_second: float
    host_network_share: float

    @property
    def step(self) -> float:
        return self.compute + self.transfer + self.latency

    @property
    def efficiency(self) -> float:
        """Efficiency relative to one chip, which never waits for another."""
        return self.compute / self.step

    def first_limit(self) -> str:
        """Returns the name of the largest cost other than arithmetic."""
        costs = {
            'collective bandwidth': self.transfer / self.step,
            'collective latency': self.latency / self.step,
            'host network': self.host_network_share,
        }
        return max(costs, key=costs.get)


def send_bandwidth(chip: Chip, grid: Sequence[int]) -> float:
    """Returns bytes per second that one chip can send in a ring over all axes of a grid."""
    one_way = chip.link_bandwidth / LINKS_PER_CHIP / 2
    return one_way * sum(2 if side >= WRAPS_AT else 1 for side in grid if side > 1)


def all_reduce_hops(grid: Sequence[int]) -> int:
    """Returns the number of sequential hops in an all-reduce: out and back along each axis."""
    return sum(2 * (side // 2 if side >= WRAPS_AT else side - 1) for side in grid)


def collective_seconds(
    kind: str, each: Collective, slice_: Slice, hop_seconds: float
) -> tuple[float, float]:
    """Returns the seconds of all collectives of one kind due to bandwidth and due to latency."""
    grid = slice_.grid if each.chips is None else (each.chips,)
    chips = math.prod(grid)
    if chips == 1:
        return 0.0, 0.0
    if kind.startswith('collective-permute'):
        return each.bytes / send_bandwidth(slice_.chip, (2,)), each.count * hop_seconds
    sent = each.bytes * (chips - 1) / chips * (2 if kind.startswith('all-reduce') else 1)
    hops = all_reduce_hops(grid)
    return sent / send_bandwidth(slice_.chip, grid), each.count * hops * hop_seconds


def scale(report: Report, slice_: Slice, assumptions: Assumptions | None = None) -> Row:
    """Returns the row of a report that was compiled for `slice_`.

    Raises:
        ValueError: the report is for a different number of chips.
    """
    if report.chips != slice_.chips:
        raise UserError(f'report for {report.chips} chips, but {slice_.name} has {slice_.chips}')
    assume = assumptions or Assumptions()
    chips, chip = slice_.chips, slice_.chip
    compute = report.flops / (assume.efficiency * chip.flops)
    costs = [
        collective_seconds(kind, each, slice_, assume.hop_seconds)
        for kind, each in report.collectives.items()
    ]
    transfer, latency = (sum(cost) for cost in zip(*costs, (0.0, 0.0), strict=True))
    rate = report.batch_size / (compute + transfer + latency)
    host_rate = rate * min(chips, chip.per_host) / chips
    return Row(
        slice=slice_.name,
        batch_size=report.batch_size,
        compute=compute,
        transfer=transfer,
        latency=latency,
        examples_per_second=rate,
        host_examples_per_second=host_rate,
        host_network_share=host_rate * assume.example_bytes / chip.host_network,
    )


def table(rows: Iterable[Row]) -> str:
    """Formats the rows as a Markdown table."""
    lines = [
        '| slice | batch | compute ms | all-reduce ms: bytes + latency | efficiency | examples/s '
        '| per host | host network | largest cost besides arithmetic |',
        '| --- | --: | --: | --: | --: | --: | --: | --: | --- |',
    ]
    for row in rows:
        lines.append(
            f'| {row.slice} | {row.batch_size:,} | {1e3 * row.compute:.1f} '
            f'| {1e3 * row.transfer:.2f} + {1e3 * row.latency:.2f} | {row.efficiency:.1%} '
            f'| {row.examples_per_second:,.0f} | {row.host_examples_per_second:,.0f} '
            f'| {row.host_network_share:.0%} | {row.first_limit()} |'
        )
    return '\n'.join(lines)


def checkpoint_seconds(state_bytes: int, assumptions: Assumptions | None = None) -> float:
    """Returns the seconds that one host needs to write a state that is the same on all chips."""
    return state_bytes / (assumptions or Assumptions()).storage_bandwidth


def tree_bytes(shapes: Mapping) -> int:
    """Returns the number of bytes of a tree of arrays or shapes."""
    import jax

    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))

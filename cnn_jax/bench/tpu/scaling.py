"""Weak scaling on paper: the time of a step from what the compiler reports and what is documented.

Nothing here is measured on an accelerator. A step takes

    compute      flops / (efficiency x the chip's peak)
    collectives  bytes sent by one chip / its links' bandwidth  +  count x hops x latency of one

one after the other: XLA overlaps a part, so the efficiency given is a lower bound. An all-reduce
sends 2 (n - 1) / n of its bytes from each of n chips (reduce-scatter and all-gather in rings, which
is the least possible: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
workstations", 2009, section 2), other collectives (n - 1) / n.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from cnn_jax.bench.tpu.aot import Report, Slice
from cnn_jax.errors import UserError

LINKS_PER_CHIP = 4  # of a two-dimensional torus
WRAPS_AT = 16  # an axis of fewer chips is a line, not a ring (v5e and v6e: a full pod wraps)


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """Assumptions that no compiler and no data sheet settles.

    Attributes:
        efficiency: share of the peak that the step's arithmetic reaches.
        hop_seconds: latency of a message from one chip to the next.
        example_bytes: one example as stored (ImageNet: 138 GB / 1.28 million JPEG files).
        storage_bandwidth: bytes per second, of one host writing a checkpoint.
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
    """One slice's step, in seconds and per second.

    Attributes:
        slice: its name.
        batch_size: over all chips.
        compute: seconds.
        transfer: seconds of collectives, by bandwidth.
        latency: seconds of collectives, by number.
        examples_per_second: over all chips.
        host_examples_per_second: that every host must read, decode and hand over.
        host_network_share: of a host's network, taken by reading examples.
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
        """Against one chip that has nobody to wait for."""
        return self.compute / self.step

    def first_limit(self) -> str:
        """The largest cost apart from arithmetic."""
        costs = {
            'collective bandwidth': self.transfer / self.step,
            'collective latency': self.latency / self.step,
            'host network': self.host_network_share,
        }
        return max(costs, key=costs.get)


def send_bandwidth(slice_: Slice) -> float:
    """Bytes per second that one chip can send in a ring over all axes of its slice."""
    one_way = slice_.chip.link_bandwidth / LINKS_PER_CHIP / 2
    return one_way * sum(2 if side >= WRAPS_AT else 1 for side in slice_.grid if side > 1)


def all_reduce_hops(slice_: Slice) -> int:
    """Messages one after the other in an all-reduce: there and back along every axis."""
    return sum(2 * (side // 2 if side >= WRAPS_AT else side - 1) for side in slice_.grid)


def scale(report: Report, slice_: Slice, assumptions: Assumptions | None = None) -> Row:
    """The row of one report, compiled for `slice_`.

    Raises:
        ValueError: the report is of another number of chips.
    """
    if report.chips != slice_.chips:
        raise UserError(f'a report for {report.chips} chips, but {slice_.name}')
    assume = assumptions or Assumptions()
    chips, chip = slice_.chips, slice_.chip
    compute = report.flops / (assume.efficiency * chip.flops)
    sent = sum(
        c.bytes * (chips - 1) / chips * (2 if kind == 'all-reduce' else 1)
        for kind, c in report.collectives.items()
    )
    transfer = sent / send_bandwidth(slice_) if chips > 1 else 0.0
    latency = report.collective_count * all_reduce_hops(slice_) * assume.hop_seconds
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
    """The rows in Markdown."""
    lines = [
        '| slice | batch | compute ms | all-reduce ms: bytes + latency | efficiency | examples/s '
        '| per host | host network | dearest beside arithmetic |',
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
    """Bytes of a tree of arrays or shapes."""
    import jax

    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))

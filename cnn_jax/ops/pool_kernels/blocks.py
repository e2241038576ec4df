"""Splits spatial axes into (blocks, stride), so that shifted views of windows have no stride.

Padding before the input is rounded up to whole blocks. Element t of window o is then element
`phase` of block o + `shift`, where (shift, phase) depends on t alone.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from cnn_jax.ops.pool_spec import PoolSpec

Array = jax.Array
Phases = dict[tuple[int, ...], Array]


@dataclasses.dataclass(frozen=True)
class Axis:
    """Spatial axis `number` of a pool, in blocks of one stride. `at` counts from the last axis."""

    number: int
    at: int
    size: int
    stride: int
    windows: int
    before: int  # blocks of padding before the input
    taps: tuple[tuple[int, int], ...]  # (shift, phase) of each element of a window

    @property
    def reach(self) -> int:
        """The largest shift. All windows together read `windows + reach` blocks."""
        return self.taps[-1][0]


def axis_of(spec: PoolSpec, number: int) -> Axis:
    stride, (lo, _) = spec.strides[number], spec.padding[number]
    before = -(-lo // stride)
    starts = (before * stride - lo + t * spec.dilation[number] for t in range(spec.window[number]))
    return Axis(
        number=number,
        at=spec.axes[number],
        size=spec.input_size[number],
        stride=stride,
        windows=spec.output_size[number],
        before=before,
        taps=tuple(divmod(start, stride) for start in starts),
    )


def split(x: Array, axes: Sequence[Axis], fill: np.ndarray) -> Phases:
    """Returns one array of blocks for each combination of phases that taps read.

    Blocks before and after the input hold `fill`, and blocks that no window reads are cropped.
    """
    # Splitting before padding lets XLA divide the blocks over devices that exchange halos.
    x = pad(x, {a.at: (0, -a.size % a.stride) for a in axes}, fill)
    for a in axes:
        x = x.reshape(*x.shape[: a.at], x.shape[a.at] // a.stride, a.stride, *x.shape[a.at + 1 :])
    places = [x.ndim + a.at - later for later, a in zip(range(len(axes))[::-1], axes, strict=True)]
    widths = {}
    for a, at in zip(axes, places, strict=True):
        widths[at - 1] = (a.before, a.windows + a.reach - a.before - x.shape[at - 1])
    x = pad(x, widths, fill)
    phases: Phases = {(): x}
    for a, at in zip(axes, places, strict=True):
        phases = {
            (*key, phase): part
            for key, whole in phases.items()
            for phase, part in _parts(whole, a, at)
        }
    return {key: lax.squeeze(part, places) for key, part in phases.items()}


def _parts(x: Array, a: Axis, at: int) -> list[tuple[int, Array]]:
    """Returns the phases that taps read, and their slices of size 1."""
    read = {phase for _, phase in a.taps}
    edges = sorted({0, a.stride, *read, *(phase + 1 for phase in read)})
    # The transpose of a split, unlike that of slices, is a concatenation, which needs no sums.
    parts = lax.split(x, np.diff(edges).tolist(), at)
    return [(start, part) for start, part in zip(edges, parts, strict=False) if start in read]


def part_of(x: Array, axes: Sequence[Axis], starts: Sequence[int], length: Sequence[int]) -> Array:
    """Returns a slice of x along `axes`."""
    lower, upper = [0] * x.ndim, list(x.shape)
    for a, start, n in zip(axes, starts, length, strict=True):
        lower[a.at], upper[a.at] = start, start + n
    return lax.slice(x, lower, upper)


def pad(x: Array, widths: dict[int, tuple[int, int]], fill: Any) -> Array:
    """Pads, or crops by negative widths, the axes that are the keys of `widths`."""
    config = [(0, 0, 0)] * x.ndim
    for at, (lo, hi) in widths.items():
        config[at] = (lo, hi, 0)
    return lax.pad(x, np.array(fill, x.dtype), config)

"""Plots the measurements of `compare`: rates per problem, and the roofline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cnn_jax.bench.kernels.compare import PASSES, Measurement, best
from cnn_jax.bench.kernels.report import LABELS, Key, group
from cnn_jax.errors import UserError
from cnn_jax.viz.figures import log_ticks, new_figure, save

MARKERS = {'forward': 'o', 'input_grad': 's', 'filter_grad': '^'}


def colours(rows: Sequence[Measurement]) -> dict[str, Any]:
    """Returns one colour per kernel, the same in every plot of these rows."""
    names = list(dict.fromkeys(row.kernel for row in rows))
    strong = [*colormaps['tab10'].colors, 'navy', 'gold', 'limegreen', 'salmon', 'black']
    return {name: strong[i % len(strong)] for i, name in enumerate(names)}


def bars(
    rows: Sequence[Measurement],
    path=None,
    *,
    dtype: str,
    torch: Mapping[Key, float] | None = None,
    title: str = '',
) -> Figure:
    """Plots one panel per pass and one bar per problem.

    The bar shows the GFLOP/s of the best kernel, in its colour. Dots show the other kernels, and a
    cross shows PyTorch (`torch` has its seconds by key).

    Raises:
        ValueError: no row of `dtype` has a time.
    """
    groups = {key: some for key, some in group(rows).items() if key[1] == dtype and best(some)}
    if not groups:
        raise UserError(f'rows: none of the {len(rows)} measurements in {dtype} has a time')
    problems = list(dict.fromkeys(key[0] for key in groups))
    directions = [d for d in PASSES if any(key[2] == d for key in groups)]
    figure = new_figure(3.2 + 3.4 * len(directions), 1.6 + 0.27 * max(len(problems), 4))
    palette, used, cross = colours(rows), set(), None
    panels = np.ravel(figure.subplots(1, len(directions), sharey=True, sharex=True))
    for axes, direction in zip(panels, directions, strict=True):
        for place, problem in enumerate(problems):
            some = groups.get((problem, dtype, direction))
            if some is None:
                continue
            winner = best(some)
            axes.barh(place, winner.gflops, color=palette[winner.kernel], height=0.8)
            used.add(winner.kernel)
            for row in some:
                if row.right and row.steady_s and row is not winner:
                    axes.plot(
                        row.gflops, place, 'o', color=palette[row.kernel],
                        markeredgecolor='white', markeredgewidth=0.7, markersize=5.5,
                    )  # fmt: skip
                    used.add(row.kernel)
            if torch and (seconds := torch.get((problem, dtype, direction))):
                rate = winner.gflops * winner.steady_s / seconds
                (cross,) = axes.plot(
                    rate, place, 'X', color='black', markeredgecolor='white', markersize=8
                )
        axes.set_xscale('log')
        axes.set_title(LABELS[direction])
        axes.set_xlabel('GFLOP/s (direct form)')
        axes.grid(axis='x', alpha=0.3)
    panels[0].set_yticks(range(len(problems)), problems, fontsize=8, family='monospace')
    panels[0].invert_yaxis()
    log_ticks(panels[0].xaxis, most=6)
    marks = {name: Patch(color=colour) for name, colour in palette.items() if name in used}
    marks |= {'PyTorch': cross} if cross else {}
    figure.legend(
        marks.values(), marks.keys(), loc='outside lower center', ncols=min(len(marks), 12),
        fontsize=8, handlelength=1.2,
    )  # fmt: skip
    heading = f'{dtype}: bar = fastest correct kernel, dots = other correct kernels'
    figure.suptitle(f'{title}\n{heading}' if title else heading, fontsize=10)
    return save(figure, path)


def roofline(
    rows: Sequence[Measurement],
    peaks: Mapping[str, Any],
    path=None,
    *,
    dtype: str,
    title: str = '',
) -> Figure:
    """Plots the best kernel of each pass under the measured roof: GFLOP/s against FLOP/byte.

    Kernels that save multiplications (Winograd, FFT) may exceed the roof, because the rate counts
    the operations of the direct form.

    Raises:
        ValueError: no row of `dtype` has a time.
    """
    winners = [best(some) for key, some in group(rows).items() if key[1] == dtype]
    winners = [row for row in winners if row]
    if not winners:
        raise UserError(f'rows: none of the {len(rows)} measurements in {dtype} has a time')
    figure = new_figure(8.2, 5)
    axes = figure.subplots()
    peak, bandwidth = peaks['gemm_gflops'][dtype], peaks['bandwidth_gbs']
    ridge = peak / bandwidth
    intensities = [row.intensity for row in winners]
    low, high = min(*intensities, ridge / 4) / 2, max(*intensities, ridge * 4) * 2
    line = np.geomspace(low, high, 200)
    axes.plot(line, np.minimum(peak, line * bandwidth), color='black', linewidth=1.5)
    axes.annotate(
        f'matrix product {peak:.3g} GFLOP/s', (high, peak), xytext=(0, 7),
        textcoords='offset points', ha='right', fontsize=8,
    )  # fmt: skip
    axes.annotate(
        f'memory {bandwidth:.3g} GB/s', (low, low * bandwidth), xytext=(8, 0),
        textcoords='offset points', va='top', fontsize=8,
    )  # fmt: skip
    palette = colours(rows)
    for row in winners:
        axes.plot(
            row.intensity, row.gflops, MARKERS[row.direction], color=palette[row.kernel],
            markeredgecolor='black', markeredgewidth=0.4, markersize=6,
        )  # fmt: skip
    for name in dict.fromkeys(row.kernel for row in winners):
        axes.plot([], [], 'o', color=palette[name], label=name)
    for direction in dict.fromkeys(row.direction for row in winners):
        (mark,) = axes.plot([], [], MARKERS[direction], color='white', label=LABELS[direction])
        mark.set_markeredgecolor('black')
    axes.set_xscale('log')
    axes.set_yscale('log')
    log_ticks(axes.xaxis)
    log_ticks(axes.yaxis)
    axes.set_xlabel('intensity (FLOP per byte of operands and result)')
    axes.set_ylabel('GFLOP/s (direct form)')
    axes.grid(alpha=0.3)
    figure.legend(loc='outside right upper', fontsize=8)
    axes.set_title(f'{title}\nroofline, {dtype}' if title else f'roofline, {dtype}', fontsize=10)
    return save(figure, path)

"""Compares where the milliseconds of training steps go, as tables and stacked bars."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from cnn_jax.bench.steps.compare import STYLE, Key
from cnn_jax.bench.steps.timeline import KINDS
from cnn_jax.tables import aligned
from cnn_jax.viz.figures import new_figure, save

# The others do not name the pass of a convolution, or fuse convolutions with other work.
SIDES = ('native', 'pure', 'installed', 'torch')


def summary(results: Sequence[tuple[Key, Mapping[str, Any]]]) -> dict[Key, dict[str, Any]]:
    """Returns for every side the parts of its typical traced step.

    It is the mean of the middle half of a process's traced steps, ordered by their times, in the
    process whose mean is the median. The parts therefore sum exactly to its time.

    Args:
        results: keys, and results of `compare.run` with `traced_steps`.

    Returns:
        For every key `traced_ms`, `parts_ms` by kind, and `step_ms`, the median over processes of
        the median step without the profiler.
    """
    found: dict[Key, list[Mapping[str, Any]]] = {}
    for key, result in results:
        found.setdefault(key, []).append(result)
    sums = {}
    for key, some in found.items():
        typical = sorted((_typical(result['parts_s']) for result in some), key=_total)
        parts = typical[(len(typical) - 1) // 2]
        step_s = statistics.median(statistics.median(result['step_s']) for result in some)
        sums[key] = {'step_ms': 1e3 * step_s, 'traced_ms': _total(parts), 'parts_ms': parts}
    return sums


def _total(parts: Mapping[str, float]) -> float:
    return sum(parts.values())


def _typical(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    steps = sorted(steps, key=_total)
    margin = len(steps) // 4
    middle = steps[margin : len(steps) - margin]
    return {kind: 1e3 * statistics.mean(step.get(kind, 0) for step in middle) for kind in KINDS}


def table(sums: Mapping[Key, Mapping[str, Any]]) -> str:
    """Formats one table per network and dtype: milliseconds by kind, a column for every side."""
    texts = []
    for (name, dtype), sides in _cases(sums).items():
        rows = [(f'{name}, {dtype}', *(STYLE[side][1] for side in sides))]
        rows += [
            (kind, *(f'{values["parts_ms"][kind]:.2f}' for values in sides.values()))
            for kind in _occurring(sides.values())
        ]
        for title, key in (('sum', 'traced_ms'), ('step without the profiler', 'step_ms')):
            rows.append((title, *(f'{values[key]:.2f}' for values in sides.values())))
        texts.append(aligned(rows))
    return '\n\n'.join(texts)


def markdown(sums: Mapping[Key, Mapping[str, Any]], dtype: str) -> str:
    """Formats the networks of one dtype as one table in Markdown, a row for every side.

    The first three columns of times are the passes of convolutions.
    """
    chosen = {key: values for key, values in sums.items() if key[1] == dtype}
    kinds = _occurring(chosen.values())
    heads = ' | '.join(kind.removeprefix('convolution, ') for kind in kinds)
    lines = [f'| network | | {heads} | sum | without the profiler |']
    lines.append('|---|---|' + '--:|' * (len(kinds) + 2))
    for (name, _, side), values in chosen.items():
        numbers = [values['parts_ms'][kind] for kind in kinds]
        numbers += [values['traced_ms'], values['step_ms']]
        lines.append(f'| {name} | {STYLE[side][1]} | {" | ".join(f"{n:.1f}" for n in numbers)} |')
    return '\n'.join(lines)


def _cases(sums):
    cases: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for (name, dtype, side), values in sums.items():
        cases.setdefault((name, dtype), {})[side] = values
    return cases


def _occurring(all_values) -> list[str]:
    return [kind for kind in KINDS if any(values['parts_ms'][kind] > 0 for values in all_values)]


def bars(sums: Mapping[Key, Mapping[str, Any]], path=None, *, title: str = '') -> Figure:
    """Plots the parts of every step as stacked bars, as shares of the last side's step."""
    cases = _cases(sums)
    figure = new_figure(9, 1 + 0.25 * len(sums))
    panel = figure.subplots()
    colours = ['0.15', '0.35', '0.55', *(f'C{i}' for i in range(8)), '0.9']
    ticks: list[str] = []
    for (name, dtype), sides in cases.items():
        last = list(sides)[-1]
        base = sides[last]['traced_ms']
        for side, values in sides.items():
            left = 0.0
            for kind, colour in zip(KINDS, colours, strict=True):
                width = values['parts_ms'][kind] / base
                label = '' if ticks else kind
                panel.barh(len(ticks), width, left=left, color=colour, label=label)
                left += width
            ticks.append(f'{name}, {dtype}: {STYLE[side][1]}')
    panel.set_yticks(range(len(ticks)), ticks, fontsize=7)
    panel.invert_yaxis()
    panel.set_xlabel(f'time of a step, relative to {STYLE[last][1]}')
    panel.legend(fontsize=6, ncols=4, loc='lower center', bbox_to_anchor=(0.4, 1.0))
    figure.suptitle(title, fontsize=8)
    return save(figure, path)

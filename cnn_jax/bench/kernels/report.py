"""Formats the measurements of `compare`: a table per pass, the best kernels, and totals."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.bench import machine
from cnn_jax.bench.kernels.compare import Measurement, best
from cnn_jax.tables import aligned

LABELS = {'forward': 'forward', 'input_grad': 'input gradient', 'filter_grad': 'filter gradient'}

Key = tuple[str, str, str]  # problem, dtype, direction


def group(rows: Sequence[Measurement]) -> dict[Key, list[Measurement]]:
    """Groups rows by (problem, dtype, direction), fastest first and rows without a time last."""
    groups: dict[Key, list[Measurement]] = {}
    for row in rows:
        groups.setdefault((row.problem, row.dtype, row.direction), []).append(row)
    return {key: sorted(some, key=_rank) for key, some in groups.items()}


def _rank(row):
    return (row.steady_s is None, row.right is False, row.steady_s or 0.0)


def table(rows: Sequence[Measurement], peaks: Mapping[str, Any]) -> str:
    """Formats every kernel of every pass. `*` marks the kernel that `implementation=None` runs."""
    lines = []
    for (problem, dtype, direction), some in group(rows).items():
        one = some[0]
        limit = machine.attainable(peaks, dtype, one.intensity)
        lines += [
            '',
            f'{problem}  {LABELS[direction]}  {dtype}  '
            f'{one.bytes / 1e6:.3g} MB, {one.intensity:.3g} FLOP/B, roof {limit:.4g} GFLOP/s',
            f'  {"kernel":<12}{"ms":>10}{"± ms":>9}{"GFLOP/s":>10}{"% peak":>8}{"% roof":>8}'
            f'{"error":>10}{"compile s":>11}{"first ms":>10}  remark',
        ]
        lines += [_line(row, peaks['gemm_gflops'][dtype], limit) for row in some]
    return '\n'.join(lines[1:])


def _line(row, peak, limit):
    name = f'  {row.kernel + ("*" if row.chosen else ""):<12}'
    if row.error is None:
        reason = row.reason if len(row.reason) <= 90 else row.reason[:87] + '...'
        return f'{name}{"-":>10}  {reason}'
    remark = f'checked {row.checked}' if row.checked else ''
    if not row.right:
        remark = f'WRONG: error above {row.tolerance:.1e}; {remark}'.rstrip('; ')
    timed = (
        f'{1e3 * row.steady_s:>10.3f}{1e3 * row.iqr_s:>9.3f}{row.gflops:>10.3g}'
        f'{100 * row.gflops / peak:>8.1f}{100 * row.gflops / limit:>8.1f}'
        if row.steady_s
        else f'{"-":>10}{"-":>9}{"-":>10}{"-":>8}{"-":>8}'
    )
    return (
        f'{name}{timed}{row.error:>10.1e}{row.compile_s:>11.2f}{1e3 * row.first_s:>10.2f}  {remark}'
    ).rstrip()


def best_table(rows: Sequence[Measurement], torch: Mapping[Key, float] | None = None) -> str:
    """Compares the fastest correct kernel of each pass with lax, the default choice and PyTorch.

    Args:
        rows: measurements.
        torch: PyTorch's seconds, by (problem, dtype, direction).
    """
    heads = ['problem', 'pass', 'dtype', 'best', 'GFLOP/s', 'lax', 'default']
    table = [heads + (['PyTorch'] if torch else [])]
    for key, some in group(rows).items():
        winner = best(some)
        what = [key[0], LABELS[key[2]], key[1]]
        if winner is None:
            table.append([*what, 'none is correct', *[''] * (len(table[0]) - 4)])
            continue
        others = [seconds(some, 'lax'), chosen_seconds(some)] + ([torch.get(key)] if torch else [])
        times = [_times(other, winner) for other in others]
        table.append([*what, winner.kernel, f'{winner.gflops:.3g}', *times])
    return f'{aligned(table, left=4)}\n(lax, default, PyTorch: time relative to the best kernel)'


def _times(other: float | None, winner: Measurement) -> str:
    return '-' if other is None else f'{other / winner.steady_s:.2f}x'


def ratios(
    rows: Sequence[Measurement], torch: Mapping[Key, float] | None = None
) -> dict[tuple[str, str], dict[str, float]]:
    """Returns the speed-up of the default choice: (dtype, 'lax' or 'PyTorch') -> problem -> ratio.

    The times of all measured passes of a problem are added: forward and gradients, as in training.
    Problems with a missing time are left out.
    """
    sums: dict[tuple[str, str, str], list[float | None]] = {}
    for key, some in group(rows).items():
        problem, dtype, _ = key
        times = {'lax': seconds(some, 'lax'), 'PyTorch': (torch or {}).get(key)}
        for other, theirs in times.items():
            total = sums.setdefault((dtype, other, problem), [0.0, 0.0])
            for place, value in enumerate((theirs, chosen_seconds(some))):
                known = total[place] is not None and value is not None
                total[place] = total[place] + value if known else None
    found: dict[tuple[str, str], dict[str, float]] = {}
    for (dtype, other, problem), (theirs, ours) in sums.items():
        if theirs and ours:
            found.setdefault((dtype, other), {})[problem] = theirs / ours
    return found


def ratios_lines(found: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    """Formats `ratios` as text: the geometric mean and the worst ratio of each comparison."""
    lines = []
    for (dtype, other), by_problem in found.items():
        worst = min(by_problem, key=by_problem.get)
        lines.append(
            f'{dtype}: default {statistics.geometric_mean(by_problem.values()):.2f}x as fast as '
            f'{other} (geometric mean of {len(by_problem)} problems, all passes together), '
            f'at worst {by_problem[worst]:.2f}x ({worst})'
        )
    return '\n'.join(lines)


def seconds(some: Sequence[Measurement], kernel: str) -> float | None:
    """Returns the steady time of one kernel in a group; None if it has no time or is wrong."""
    return next((r.steady_s for r in some if r.kernel == kernel and r.right), None)


def chosen_seconds(some: Sequence[Measurement]) -> float | None:
    """Returns the default choice's steady time in a group; None if it has none or is wrong."""
    return next((r.steady_s for r in some if r.chosen and r.right), None)


def totals(rows: Sequence[Measurement], counts: Mapping[Key, int] | None = None) -> dict[str, Any]:
    """Returns the total seconds of all passes for lax, the default choice and the best kernels.

    Only passes for which all three have a time are included, so that the sums are comparable.

    Args:
        rows: measurements.
        counts: how often a model runs each pass; omitted passes count 0 times. None counts every
            pass once.
    """
    result = {'lax_s': 0.0, 'default_s': 0.0, 'best_s': 0.0, 'passes': 0, 'left_out': 0}
    for key, some in group(rows).items():
        count = 1 if counts is None else counts.get(key, 0)
        three = (seconds(some, 'lax'), chosen_seconds(some), best(some))
        if any(t is None for t in three):
            result['left_out'] += bool(count)
            continue
        result['passes'] += count
        result['lax_s'] += count * three[0]
        result['default_s'] += count * three[1]
        result['best_s'] += count * three[2].steady_s
    return result


def totals_line(sums: Mapping[str, Any]) -> str:
    """Formats `totals` as text."""
    if not sums['passes']:
        return 'no totals: no pass was computed by both lax and the default'
    lax, default, best_ = (1e3 * sums[name] for name in ('lax_s', 'default_s', 'best_s'))
    text = (
        f'{sums["passes"]} passes in total: lax {lax:.1f} ms, default {default:.1f} ms '
        f'({lax / default:.2f}x), best of each {best_:.1f} ms ({lax / best_:.2f}x)'
    )
    return text + (f'; {sums["left_out"]} passes left out' if sums['left_out'] else '')

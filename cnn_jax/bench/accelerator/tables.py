"""Formats a report as Markdown, for a README or an issue."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.bench import machine
from cnn_jax.bench.kernels import compare
from cnn_jax.bench.kernels import report as kernel_report
from cnn_jax.bench.kernels.compare import Measurement

Row = Mapping[str, Any]


def markdown(report: Mapping[str, Any]) -> str:
    """Returns a report, as `report.run` yields it, as Markdown."""
    parts = report['parts']
    sections = [_machine(report), _parts(parts)]
    for name, heading, section in (
        ('checks', 'Kernels against float64', _checks),
        ('kernels', 'Times of kernels', _kernels),
        ('training', 'Training', lambda rows: _training(rows, report['machine'])),
        ('input', 'Waiting for examples', _input),
    ):
        if rows := parts.get(name, {}).get('rows'):
            sections.append(f'### {heading}\n\n{section(rows)}')
    return '\n\n'.join(sections) + '\n'


def measurements(rows: Sequence[Row]) -> list[Measurement]:
    """Returns the rows of the part `kernels` as they were measured."""
    return [Measurement(**{k: v for k, v in row.items() if k != 'right'}) for row in rows]


def throughput(row: Row) -> float:
    """Returns images per second of a row of the part `training`."""
    return row['batch_size'] / row['step_s']


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    rule = ['---'] * left + ['--:'] * (len(heads) - left)
    return '\n'.join(f'| {" | ".join(line)} |' for line in (heads, rule, *rows))


def _machine(report: Mapping[str, Any]) -> str:
    found = report['machine']
    if not found:
        return f'The machine could not be described ({report["date"]}).'
    limits = []
    if peaks := found.get('peaks'):
        rates = peaks['gemm_gflops'].items()
        limits = [f'{dtype} {rate / 1e3:.3g} TFLOP/s' for dtype, rate in rates]
        limits.append(f'memory {peaks["bandwidth_gbs"]:.3g} GB/s')
    if size := found['device_memory_bytes']:
        limits.append(f'{size / 2**30:.1f} GiB for programs')
    versions = found['versions'] | found['torch']
    named = ', '.join(f'{name} {version}' for name, version in versions.items() if version)
    parts = [f'{machine.one_line(found)}, {report["date"]}', '; '.join(limits), named]
    return '. '.join(part for part in parts if part) + '.'


def _parts(parts: Mapping[str, Row]) -> str:
    rows = [
        [name, part['status'], f'{part["seconds"]:.0f}', part['reason']]
        for name, part in parts.items()
    ]
    return _table(['part', 'status', 'seconds', 'remark'], rows, left=2)


def _checks(rows: Sequence[Row]) -> str:
    counts: dict[str, collections.Counter] = {}
    for row in rows:
        kind = 'right' if row['right'] else 'wrong' if row['right'] is False else 'unsupported'
        if row['reason'].startswith('failed'):
            kind = 'failed'
        counts.setdefault(row['kernel'], collections.Counter())[kind] += 1
    kinds = ('right', 'wrong', 'failed', 'unsupported')
    lines = [[f'`{name}`', *(str(count[k]) for k in kinds)] for name, count in counts.items()]
    text = _table(['kernel', *kinds], lines)
    bad = [row for row in rows if row['right'] is False or row['reason'].startswith('failed')]
    if bad:
        text += '\n\n' + '\n'.join(
            f'- `{row["problem"]}` {row["direction"]}, {row["dtype"]} ({row["precision"]} '
            f'precision), `{row["kernel"]}`: '
            + (row['reason'] or f'error {row["error"]:.1e}, tolerance {row["tolerance"]:.1e}')
            for row in bad
        )
    return text


def _kernels(rows: Sequence[Row]) -> str:
    lines = []
    for (problem, dtype, direction), some in kernel_report.group(measurements(rows)).items():
        best = compare.best(some)
        times = [kernel_report.seconds(some, 'lax'), kernel_report.chosen_seconds(some)]
        cells = [f'`{problem}`', kernel_report.LABELS[direction], dtype]
        cells += ['-' if t is None else f'{1e3 * t:.3f}' for t in times]
        if best and best.steady_s and best.gflops:
            cells += [best.kernel, f'{1e3 * best.steady_s:.3f}', f'{best.gflops / 1e3:.3g}']
        else:
            cells += ['none is right', '-', '-']
        lines.append(cells)
    heads = ['problem', 'pass', 'dtype', 'lax, ms', 'default, ms', 'best', 'ms', 'TFLOP/s']
    return _table(heads, lines, left=3)


def _training(rows: Sequence[Row], found: Row) -> str:
    peaks = found.get('peaks', {}).get('gemm_gflops', {})
    sides: dict[str, dict[str, Row]] = {}
    for row in rows:
        sides.setdefault(row['network'], {})[row['side']] = row
    lines, remarks = [], []
    for name, both in sides.items():
        ours, theirs = both.get('native', {}), both.get('torch.compile', {})
        rates = [throughput(row) if 'step_s' in row else None for row in (ours, theirs)]
        shape = next((row for row in (ours, theirs) if 'step_s' in row), None)
        cells = [f'`{name}`', '-', '-']
        if shape:
            cells[1:] = [f'{shape["image_size"]}', f'{shape["batch_size"]}']
        cells += ['-' if rate is None else f'{rate:,.0f}' for rate in rates]
        cells.append(f'{rates[0] / rates[1]:.2f}' if rates[0] and rates[1] else '-')
        cells += _work(ours, rates[0], peaks)
        lines.append(cells)
        for side, row in both.items():
            if row.get('reason'):
                remarks.append(f'- `{name}`, {side}: {row["reason"]}')
    heads = ['network', 'pixels', 'batch', 'cnn_jax, images/s', 'PyTorch, compiled', 'ratio']
    text = _table([*heads, 'TFLOP/s', '% of product', 'GiB'], lines)
    note = (
        'TFLOP/s: three times the forward pass, two operations per multiply-accumulate; % of the '
        'fastest matrix product measured; GiB: peak on the device.'
    )
    return '\n\n'.join([text, note, *(['\n'.join(remarks)] if remarks else [])])


def _work(row: Row, rate: float | None, peaks: Mapping[str, float]) -> list[str]:
    if rate is None:
        return ['-', '-', '-']
    flops = 6 * row['macs'] * rate
    peak = peaks.get(row['dtype'])
    memory = row['device_bytes']
    return [
        f'{flops / 1e12:.3g}',
        f'{100 * flops / 1e9 / peak:.0f}' if peak else '-',
        f'{memory / 2**30:.2f}' if memory else '-',
    ]


def _input(rows: Sequence[Row]) -> str:
    lines = [
        [
            row['loop'],
            f'`{row["model"]}`, {row["batch_size"]} images of {row["image_size"]}',
            f'{1e3 * row["step_s"]:.2f}',
            '-' if row['waits'] is None else f'{row["waits"]:.1%}',
        ]
        for row in rows
    ]
    return _table(['loop', 'step', 'ms', 'waits'], lines, left=2)

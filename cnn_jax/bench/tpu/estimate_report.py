"""Formats the records of `estimate` as tables. Each table has figures of one scale only."""

import dataclasses
import importlib.metadata
import json
import pathlib
from collections.abc import Sequence

import jax

from cnn_jax.bench.kernels.report import LABELS
from cnn_jax.bench.tpu.estimate import FAILED, Record, StepRecord
from cnn_jax.tables import aligned

ESTIMATED = (
    "microseconds: cycles as the TPU's compiler estimates them over the clock; not measured, and "
    'only good for comparing rows'
)
COUNTED = (
    "microseconds: instruction bundles of the compiler's schedule over the clock, without waiting "
    'for memory; not measured, and not comparable with the other table'
)
NONE = '-'
NO_ESTIMATE = 'a Pallas kernel: no estimate'


def text(chip: str, records: Sequence[Record], steps: Sequence[StepRecord]) -> str:
    """Formats everything that is known of one chip."""
    about = ', '.join(f'{name} {value}' for name, value in _about(chip).items())
    parts = [f'estimates, not times: {about}', '']
    parts += [kernels(records)] if records else []
    parts += ['', ESTIMATED.replace('microseconds', 'ms'), '', step_table(steps)] if steps else []
    return '\n'.join(parts)


def save(
    folder: pathlib.Path, chip: str, records: Sequence[Record], steps: Sequence[StepRecord]
) -> str:
    """Writes table.txt and results.json, and returns the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = text(chip, records, steps)
    (folder / 'table.txt').write_text(f'{tables}\n')
    results = _about(chip) | {
        'records': [dataclasses.asdict(record) for record in records],
        'steps': [dataclasses.asdict(record) for record in steps],
    }
    (folder / 'results.json').write_text(json.dumps(results, indent=1) + '\n')
    return tables


def _about(chip: str) -> dict[str, str]:
    return {
        'chip': chip,
        'libtpu': importlib.metadata.version('libtpu'),
        'jax': jax.__version__,
    }


def kernels(records: Sequence[Record]) -> str:
    """Formats the estimates of each pass, fastest first; `*` marks what the rules choose.

    A pass in which a kernel has no estimate gets a second table, of bundles, for all its kernels.
    """
    tables = [_table(records, 'microseconds', ESTIMATED)]
    if any(r.bundles_microseconds is not None for r in records):
        tables.append(_table(records, 'bundles_microseconds', COUNTED))
    return '\n\n'.join(tables)


def _table(records: Sequence[Record], figure: str, scale: str) -> str:
    heads = ['problem', 'pass', 'dtype', 'kernel', 'us', 'lax/it', 'of it copies', 'roof', 'MiB']
    rows = [[*heads, 'operations']]
    remarks = ['']
    for some in _passes(records):
        values = [getattr(r, figure) for r in some]
        if figure != 'microseconds' and not any(values):
            continue
        lax = next((v for r, v in zip(some, values, strict=True) if r.kernel == 'lax'), None)
        order = sorted(zip(some, values, strict=True), key=lambda pair: pair[1] or float('inf'))
        for record, value in order:
            if record.operations is None and not record.reason.startswith(FAILED):
                continue  # the kernel does not support the call: only in results.json
            rows.append(_row(record, value, lax, figure == 'microseconds'))
            remarks.append(record.reason or ('' if value else NO_ESTIMATE))
    lines = aligned(rows, left=4).splitlines()
    return '\n'.join(
        [scale, '', *(f'{a}  {b}'.rstrip() for a, b in zip(lines, remarks, strict=True))]
    )


def _passes(records: Sequence[Record]) -> list[list[Record]]:
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.problem, record.direction, record.dtype), []).append(record)
    return list(groups.values())


def _row(record: Record, value: float | None, lax: float | None, has_copies: bool) -> list[str]:
    name = record.kernel + ('*' if record.chosen else '')
    what = [record.problem, LABELS[record.direction], record.dtype, name]
    if value is None:
        return [*what, *[NONE] * 6]
    copies = record.copies_microseconds if has_copies else None
    return [
        *what,
        f'{value:,.1f}',
        f'{lax / value:.2f}' if lax else NONE,
        NONE if copies is None else f'{copies:,.1f}',
        f'{record.roof_microseconds:,.1f}',
        f'{(record.memory_bytes or 0) / 2**20:,.1f}',
        f'{record.operations:,}',
    ]


def step_table(records: Sequence[StepRecord]) -> str:
    """Formats the estimates of whole training steps, one row for each choice of kernels."""
    rows = [['step of', 'batch', 'kernels', 'ms', 'lax/it', 'of it copies', 'MiB', 'operations']]
    lax = {r.model: r.microseconds for r in records if r.choice == 'lax'}
    remarks = ['']
    for r in records:
        remarks.append(r.reason or (NO_ESTIMATE if r.microseconds is None else ''))
        what = [r.model, f'{r.batch_size:,}', r.choice]
        if r.microseconds is None:
            rows.append([*what, *[NONE] * 5])
            continue
        base = lax.get(r.model)
        rows.append([
            *what,
            f'{r.microseconds / 1e3:,.2f}',
            f'{base / r.microseconds:.2f}' if base else NONE,
            f'{(r.copies_microseconds or 0) / 1e3:,.2f}',
            f'{(r.memory_bytes or 0) / 2**20:,.0f}',
            f'{r.operations:,}',
        ])  # fmt: skip
    lines = aligned(rows, left=3).splitlines()
    return '\n'.join(f'{a}  {b}'.rstrip() for a, b in zip(lines, remarks, strict=True))

"""Turns reports into a table of measured choices, and compares estimates with measured times."""

import itertools
import json
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cnn_jax.bench.accelerator.report import VERSION
from cnn_jax.bench.accelerator.tables import measurements
from cnn_jax.bench.kernels import compare
from cnn_jax.bench.kernels.compare import Measurement
from cnn_jax.errors import UserError
from cnn_jax.ops.tuning import table
from cnn_jax.tables import aligned

FIELDS = ('problem', 'map', 'kernel', 'dtype', 'chip', 'microseconds')

Key = tuple[str, str, str]  # problem, pass, dtype
Times = dict[Key, dict[str, float]]  # kernel -> microseconds


def read(paths: Iterable[str]) -> list[dict[str, Any]]:
    """Reads reports.

    Raises:
        UserError: a file is not a report, its kernels were not timed, or the reports are of
            different devices; the message names the file.
    """
    reports: list[dict[str, Any]] = []
    for path in paths:
        report = _json(path)
        if not isinstance(report, dict) or report.get('version') != VERSION:
            raise UserError(f'{path}: not a report of accelerator_report.py, version {VERSION}')
        if not report['machine'] or not report['parts']['kernels']['rows']:
            raise UserError(f'{path}: this report has no times of kernels')
        if reports and device(report) != device(reports[0]):
            names = ' and '.join(device(one)[1] for one in (reports[0], report))
            raise UserError(f'{path}: reports must be of one kind of device, got {names}')
        reports.append(report)
    if not reports:
        raise UserError('give the reports: --choices=OUT.json report1.json report2.json')
    return reports


def device(report: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the platform and the device, as tables of measured choices name them."""
    found = report['machine']['tuning']
    return found['platform'], found['device']


def rows(reports: Sequence[Mapping[str, Any]]) -> list[Measurement]:
    """Returns the measurements of all reports."""
    return [row for one in reports for row in measurements(one['parts']['kernels']['rows'])]


def save(path: str, reports: Sequence[Mapping[str, Any]]) -> int:
    """Adds the times of the kernels to a table of measured choices; returns how many maps it got.

    The time of a kernel is its median over the reports. A kernel that is wrong in any report is
    left out.

    Raises:
        UserError: the file is not such a table, or of another device.
    """
    merged = _merge(rows(reports))
    choices = compare.choices(merged)
    about = {'date': max(one['date'] for one in reports)} | {
        key: value
        for key, value in reports[0]['machine'].items()
        if key not in ('tuning', 'peaks', 'memory_stats', 'torch')
    }
    platform, name = device(reports[0])
    table.save(pathlib.Path(path), choices, about, platform, name)
    return sum(map(len, choices.values()))


def _merge(found: Sequence[Measurement]) -> list[Measurement]:
    groups: dict[tuple, list[Measurement]] = {}
    for row in found:
        groups.setdefault((row.problem, row.dtype, row.direction, row.kernel), []).append(row)
    merged = []
    for some in groups.values():
        times = [row.steady_s for row in some if row.steady_s]
        if times and not any(row.right is False for row in some):
            timed = next(row for row in some if row.steady_s)
            merged.append(Measurement(**_fields(timed) | {'steady_s': statistics.median(times)}))
    return merged


def _fields(row: Measurement) -> dict[str, Any]:
    return {key: value for key, value in row.as_dict().items() if key != 'right'}


def read_estimates(path: str, chip: str = '') -> Times:
    """Reads estimates of a compiler: a JSON list of records with the fields `FIELDS`.

    `problem` is a problem string, `map` (or `direction`) one of its passes (forward, input_grad,
    filter_grad), and `chip` the device that the program was compiled for. Records whose
    `microseconds` is null are left out. The list may also be the value of `records` in an object.

    Args:
        path: the file.
        chip: whose records to read; needed if the file has several.

    Raises:
        UserError: a record lacks a field, or the chip is missing or ambiguous.
    """
    records = _json(path)
    if isinstance(records, dict):
        records = records.get('records')
    if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
        raise UserError(f'{path}: must be a JSON list of records with {", ".join(FIELDS)}')
    records = [{'map': one['direction']} | one if 'direction' in one else one for one in records]
    for place, record in enumerate(records):
        lacking = [name for name in FIELDS if name not in record]
        if lacking:
            raise UserError(f'{path}: record {place} lacks {", ".join(lacking)}')
    chips = list(dict.fromkeys(record['chip'] for record in records))
    if chip not in chips and (chip or len(chips) != 1):
        raise UserError(f'{path}: chip={chip!r}: must be one of {", ".join(chips)}')
    times: Times = {}
    for record in records:
        if record['chip'] == (chip or chips[0]) and record['microseconds'] is not None:
            key = (record['problem'], record['map'], record['dtype'])
            times.setdefault(key, {})[record['kernel']] = float(record['microseconds'])
    return times


def measured(found: Sequence[Measurement]) -> Times:
    """Returns the times of right kernels in microseconds."""
    times: Times = {}
    for row in _merge(found):
        key = (row.problem, row.direction, row.dtype)
        assert row.steady_s
        times.setdefault(key, {})[row.kernel] = 1e6 * row.steady_s
    return times


def agreement(measured: Times, estimated: Times) -> dict[str, Any]:
    """Compares estimates with measurements, where there are both.

    Returns:
        `groups`: number of passes with two or more kernels. `same_best`: in how many of them the
        estimate's fastest kernel is the fastest. `loss`: geometric mean of the time of the
        estimate's fastest kernel over that of the fastest. `tau`: mean of Kendall's rank
        correlation (1: the same order, -1: the reverse). `ratios`: for each kernel, (number,
        geometric mean, smallest, largest) of measured / estimated.
    """
    taus, losses, same = [], [], 0
    ratios: dict[str, list[float]] = {}
    for key, times in measured.items():
        other = estimated.get(key, {})
        kernels = [kernel for kernel in times if kernel in other]
        for kernel in kernels:
            ratios.setdefault(kernel, []).append(times[kernel] / other[kernel])
        if len(kernels) < 2:
            continue
        taus.append(kendall([times[k] for k in kernels], [other[k] for k in kernels]))
        picked, fastest = min(kernels, key=other.__getitem__), min(kernels, key=times.__getitem__)
        losses.append(times[picked] / times[fastest])
        same += picked == fastest
    return {
        'groups': len(taus),
        'same_best': same,
        'loss': statistics.geometric_mean(losses) if losses else None,
        'tau': statistics.fmean(taus) if taus else None,
        'ratios': {
            kernel: (len(some), statistics.geometric_mean(some), min(some), max(some))
            for kernel, some in ratios.items()
        },
    }


def kendall(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns Kendall's tau-a: pairs in the same order minus others, over all pairs.

    Source: Kendall 1938, "A New Measure of Rank Correlation".
    """
    signs = [
        _sign(a[i] - a[j]) * _sign(b[i] - b[j]) for i, j in itertools.combinations(range(len(a)), 2)
    ]
    return sum(signs) / len(signs)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def agreement_text(found: Mapping[str, Any]) -> str:
    """Formats the result of `agreement`."""
    if not found['ratios']:
        return 'no kernel has both a measurement and an estimate for the same problem'
    lines = []
    if found['groups']:
        lines.append(
            f'the estimate names the fastest kernel in {found["same_best"]} of {found["groups"]} '
            f'passes; its choice takes {found["loss"]:.2f}x the least time (geometric mean); rank '
            f'agreement (Kendall) {found["tau"]:.2f}'
        )
    heads = ['kernel', 'passes', 'measured / estimated', 'from', 'to']
    rows = [
        [kernel, str(count), *(f'{value:.2f}' for value in values)]
        for kernel, (count, *values) in found['ratios'].items()
    ]
    return '\n'.join([*lines, aligned([heads, *rows])])


def _json(path: str) -> Any:
    try:
        return json.loads(pathlib.Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: not a JSON file: {error}') from None

"""Model cards (Mitchell et al. 2019, arXiv:1810.03993): what a network is, in Markdown."""

import json
import os
import pathlib
import shlex
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from cnn_jax.training.tasks import TASKS, read_config_text
from cnn_jax.training.workdir import CONFIG, RESULT

SPLITS = ('test', 'validation')
SCRIPTS = {'generation': 'generate.py'}  # task of the configuration -> script; others: train.py


def model_card(about: Mapping[str, Any], file: str) -> str:
    """Returns the card of an exported network.

    Args:
        about: its description; see `metadata.describe`.
        file: the name of the exported file.
    """
    data, config, given, returned = (about[n] for n in ('dataset', 'config', 'input', 'output'))
    meta = data['meta']
    sizes = ', '.join(f'{n:,} {name}' for name, n in data['sizes'].items())
    preprocessing = about['preprocessing']
    weights = 'moving average of the weights' if about['averaged'] else 'weights'
    lines = [
        f'# {about["name"]}',
        '',
        f'Task: {about["task"]}. File: `{file}`, with the {weights} of step {about["step"]}.',
        '',
        '## Input and output',
        '',
        '| | name | shape | dtype | meaning |',
        '|---|---|---|---|---|',
        _row('input', given, given['units'] + _range(given['range'])),
        _row('output', returned, returned['meaning']),
        '',
        *(f'{when}: {preprocessing[key]}.  ' for when, key in _WHEN if key in preprocessing),
        *(['', f'Classes: {", ".join(about["classes"])}.'] if about['classes'] else []),
        '',
        '## Data',
        '',
        f'Data set `{data["name"]}`: {sizes} examples.',
        f'Source: {meta.get("source", "not recorded")}. '
        f'Licence: {meta.get("licence", "not recorded")}.',
        '',
        '## Results',
        '',
        *_results(about),
        '',
        '## Training',
        '',
        '```bash',
        _command(config),
        '```',
        '',
        'Versions at the export: '
        + ', '.join(f'{name} {version}' for name, version in about['versions'].items())
        + '.',
    ]
    return '\n'.join(lines) + '\n'


_WHEN = (('Before the network', 'before'), ('Inside of it', 'inside'))


def _row(what: str, tensor: Mapping[str, Any], meaning: str) -> str:
    shape = ', '.join(map(str, tensor['shape']))
    return f'| {what} | {tensor["name"]} | ({shape}) | {tensor["dtype"]} | {meaning} |'


def _range(limits: list[int | None]) -> str:
    return '' if None in limits else f', {limits[0]} to {limits[1]}'


def _results(about: Mapping[str, Any]) -> list[str]:
    result, seeds = about['result'], about['seeds']
    split = next((name for name in SPLITS if name in (result or {})), None)
    if result is None or split is None:
        return ['The run has not been evaluated.']
    rows = [
        f'| {split} {name.replace("_", " ")} | {value:.4f} |'
        for name, value in result[split].items()
        if isinstance(value, float)
    ]
    lines = [f'| of this run, at step {result["step"]} | |', '|---|--:|', *rows]
    if result['step'] != about['step']:
        lines += ['', f'The exported weights are those of step {about["step"]}.']
    if seeds:
        lines += [
            '',
            f'{len(seeds["values"])} runs that differ only in the seed: '
            f'{split} {seeds["metric"].replace("_", " ")} {seeds["mean"]:.4f} '
            f'± {seeds["deviation"]:.4f} (mean and standard deviation).',
        ]
    return lines


def _command(config: Mapping[str, Any]) -> str:
    """Returns the command that trains such a run: its flags that are not the defaults."""
    read = read_config_text(json.dumps(config))
    default = TASKS.lookup(read.task).config().identity()
    flags = [
        f'--{name}={value}' for name, value in read.identity().items() if default[name] != value
    ]
    script = SCRIPTS.get(read.task, 'train.py')
    return shlex.join(['python', f'experiments/{script}', *flags])


def seeds(path: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the scores of the finished runs beside a run that differ from it only in the seed.

    `launch/sweep.sh` writes such runs into folders beside each other.

    Returns:
        metric, values (of every run, also of this one), mean and deviation (the sample standard
        deviation); or None if there is no other run.
    """
    folder = pathlib.Path(path).expanduser().absolute()
    own = _score(folder)
    if own is None:
        return None
    identity, metric, _ = own
    others = filter(None, map(_score, _siblings(folder)))
    values = [value for theirs, name, value in others if (theirs, name) == (identity, metric)]
    if len(values) < 2:
        return None
    return {
        'metric': metric,
        'values': values,
        'mean': statistics.fmean(values),
        'deviation': statistics.stdev(values),
    }


def _siblings(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    return (file.parent for file in sorted(folder.parent.glob(f'*/{RESULT}')))


def _score(folder: pathlib.Path) -> tuple[dict[str, Any], str, float] | None:
    """Returns the identity but for the seed, the metric and its value, or None if there is none."""
    try:
        config = read_config_text((folder / CONFIG).read_text())
        result = json.loads((folder / RESULT).read_text())
    except (OSError, ValueError):
        return None  # not a finished run of this version
    split = next((name for name in SPLITS if name in result), None)
    metric = result.get('metric', 'accuracy')
    value = result.get(split, {}).get(metric)
    if not isinstance(value, float):
        return None
    return {n: v for n, v in config.identity().items() if n != 'seed'}, metric, value

"""Times whole trainings, from the start of a process to its end, in this package and in PyTorch.

On our side the process is experiments/train.py, as a user runs it: it imports, reads the prepared
data set, compiles, trains, evaluates after each epoch, saves checkpoints, and draws pictures. On
PyTorch's side it is `torch_program`. It starts from the same weights and reads the same arrays,
already normalised, from one file; the order of its batches is its own.
"""

import dataclasses
import json
import pathlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cnn_jax.bench.parity.compare import MODELS, ParityConfig
from cnn_jax.bench.process import run_python
from cnn_jax.errors import UserError
from cnn_jax.tables import aligned

# The name of each side in tables.
SIDES = {
    'first': 'cnn_jax, first start',
    'again': 'cnn_jax, later start',
    'torch': 'PyTorch',
    'torch.compile': 'PyTorch, compiled',
}


def check(config: ParityConfig, dataset: Any, sides: Sequence[str]) -> None:
    """Raises UserError if a side is unknown or PyTorch's program does not do such a training."""
    for side in sides:
        if side not in SIDES:
            raise UserError(f'whole: {side!r} must be one of {", ".join(SIDES)}')
    if config.model == 'autoencoder' or dataset.task == 'segmentation':
        raise UserError(f'whole: model={config.model!r}: only classifiers are timed')
    if config.augment:
        raise UserError(f'whole: augment={config.augment!r}: only trainings without it are timed')


def run(folder: pathlib.Path, config: ParityConfig, side: str, number: int) -> dict[str, float]:
    """Runs one process and returns its seconds and the accuracy of its last evaluation.

    Args:
        folder: the folder of a task, see `compare.prepare`; the process writes below it.
        config: the training.
        side: a key of `SIDES`. 'first' starts with an empty compilation cache, 'again' with that
            of a finished training of the same number.
        number: the training of the task.

    Raises:
        ImportError: PyTorch is not installed.
        RuntimeError: the process failed; the message has its last line.
    """
    if side.startswith('torch'):
        mode = 'compile' if side == 'torch.compile' else 'eager'
        script = str(pathlib.Path(__file__).with_name('torch_program.py'))
        cache = {'TORCHINDUCTOR_CACHE_DIR': str(folder / f'inductor_{number}')}
        arguments = ['-P', script, str(folder), str(number), mode]
        seconds, printed = _timed(arguments, side, cache)
        return {'seconds': seconds, **json.loads(printed)}
    cache = _cache(folder / f'compiled_{number}')
    if side == 'again' and not (folder / f'first_{number}').exists():
        _timed(_command(folder / f'first_{number}', config, number), 'first', cache)
    workdir = folder / f'{side}_{number}'
    seconds, _ = _timed(_command(workdir, config, number), side, cache)
    result = json.loads((workdir / 'result.json').read_text())
    return {'seconds': seconds, 'test': result['test']['accuracy']}


def _command(workdir: pathlib.Path, config: ParityConfig, number: int) -> list[str]:
    options = MODELS[config.model][1] | config.read_model_options()
    config = dataclasses.replace(
        config,
        seed=config.seed + number,
        model_options=','.join(f'{name}={value!r}' for name, value in options.items()),
    )
    flags = [f'--{name}={value}' for name, value in config.identity().items()]
    if config.data_dir:
        flags.append(f'--data_dir={config.data_dir}')
    return ['-m', 'cnn_jax', 'train', *flags, f'--workdir={workdir}']


def _cache(folder: pathlib.Path) -> dict[str, str]:
    """Returns the variables of launch/common.sh for a compilation cache."""
    return {
        'JAX_COMPILATION_CACHE_DIR': str(folder),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2',
    }


def _timed(arguments: list[str], what: str, environment: Mapping[str, str]) -> tuple[float, str]:
    start = time.perf_counter()
    printed = run_python(arguments, what=what, environment=environment)
    return time.perf_counter() - start, printed


def rounds(
    folder: pathlib.Path, config: ParityConfig, sides: Sequence[str], count: int
) -> Iterator[tuple[str, dict[str, float]]]:
    """Runs every training of the task with all sides in turns; yields each side and its result."""
    for number in range(count):
        for side in sides:
            yield side, run(folder, config, side, number)


def summary(results: Sequence[tuple[str, Mapping[str, float]]]) -> dict[str, dict[str, Any]]:
    """Returns for each side the median, least and most seconds, and all accuracies."""
    found: dict[str, list[Mapping[str, float]]] = {}
    for side, result in results:
        found.setdefault(side, []).append(result)
    return {
        side: {
            'seconds': statistics.median(r['seconds'] for r in some),
            'least': min(r['seconds'] for r in some),
            'most': max(r['seconds'] for r in some),
            'tests': [r['test'] for r in some],
        }
        for side, some in found.items()
    }


def table(sums: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats `summary` for a terminal, with each time divided by that of our first start."""
    base = sums.get('first') or next(iter(sums.values()))
    rows = [('whole process', 's', 'least', 'most', 'ratio', 'test accuracy')]
    for side, values in sums.items():
        seconds = [f'{values[name]:.1f}' for name in ('seconds', 'least', 'most')]
        ratio = f'{values["seconds"] / base["seconds"]:.2f}'
        tests = ' '.join(f'{test:.4f}' for test in values['tests'])
        rows.append((SIDES[side], *seconds, ratio, tests))
    return aligned(rows)

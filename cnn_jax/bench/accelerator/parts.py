"""The parts of a report that run in one process: `python -m cnn_jax.bench.accelerator.parts`.

The task on stdin is JSON with `part`, a name in `PARTS`, and `settings`, the fields of
`report.Settings`. Lines on stdout are JSON: first `{"total": n}`, then n objects, each as soon as
it is measured, so that a process that is killed loses little: `rows`, or facts on the machine.
"""

import concurrent.futures
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from cnn_jax import data, training
from cnn_jax.bench import machine as bench_machine
from cnn_jax.bench.accelerator.report import Settings
from cnn_jax.bench.kernels import benchdnn, compare, suites
from cnn_jax.bench.kernels.problem import parse
from cnn_jax.bench.loops import Loop, StepAlone
from cnn_jax.bench.timing import Compiled, steady
from cnn_jax.machine import cores
from cnn_jax.ops.platforms import default_platform
from cnn_jax.ops.tuning import table
from cnn_jax.training.devices import Devices

Rows = Iterator[dict[str, Any]]


def machine(settings: Settings) -> Rows:
    """Describes the device, its memory and its measured limits."""
    yield {'total': 2}
    platform = default_platform()
    yield {
        **bench_machine.describe(),
        'tuning': {'platform': platform, 'device': table.device(platform)},
        'memory_stats': jax.devices()[0].memory_stats(),
        'torch': bench_machine.versions(('torch', 'torchvision')),
    }
    small = {'largest': 512, 'rounds': 2} if settings.small else {}
    rates = {d: bench_machine.gemm_peak(d, **small) for d in ('float32', 'bfloat16')}
    bandwidth = bench_machine.bandwidth(64 if settings.small else None)
    yield {'peaks': {'gemm_gflops': rates, 'bandwidth_gbs': bandwidth}}


def checks(settings: Settings) -> Rows:
    """Compares every kernel with float64, on small problems of every kind."""
    problems = [parse(text) for text in suites.CHECKS[: 1 if settings.small else None]]
    is_cpu = jax.default_backend() == 'cpu'
    # Accelerators multiply float32 in fewer bits unless a precision is asked for.
    kinds = [('float32', None), ('bfloat16', None)] + ([] if is_cpu else [('float32', 'highest')])
    tasks = [
        (problem, direction, dtype, precision)
        for dtype, precision in kinds
        for problem in problems
        for direction in compare.passes(problem)
    ]
    yield {'total': len(tasks)}
    # Compilation takes the time, and XLA compiles in parallel.
    with concurrent.futures.ThreadPoolExecutor(1 if is_cpu else min(8, cores())) as pool:
        for found in pool.map(_check, tasks):
            yield {'rows': found}


def _check(task: tuple) -> list[dict[str, Any]]:
    problem, direction, dtype, precision = task
    rows = compare.measure(problem, direction, dtype, precision=precision, rounds=0)
    kept = ('problem', 'dtype', 'direction', 'kernel', 'reason', 'error', 'tolerance', 'right')
    return [
        {key: row.as_dict()[key] for key in kept} | {'precision': precision or 'default'}
        for row in rows
    ]


def kernels(settings: Settings) -> Rows:
    """Times every kernel on every pass of a suite."""
    if benchdnn.is_file(settings.suite):
        tasks = list(benchdnn.read(settings.suite).tasks(settings.dtypes))
    else:
        problems = [parse(text) for text in suites.SUITES[settings.suite]]
        tasks = [
            (problem, dtype, direction)
            for dtype in settings.dtypes
            for problem in problems
            for direction in compare.passes(problem)
        ]
    yield {'total': len(tasks)}
    effort: dict[str, Any] = {'rounds': 5, 'limit': 0.5, 'check_macs': 2e7}
    if settings.small:
        effort = {'rounds': 1, 'limit': 0.01, 'check_macs': 1e6}
    for problem, dtype, direction in tasks:
        rows = compare.measure(problem, direction, dtype, **effort)
        yield {'rows': [row.as_dict() for row in rows]}
        jax.clear_caches()  # compiled programs hold memory of the device


def examples(settings: Settings) -> Rows:
    """Times a training loop whose images are on the device, one that sends them, and the step."""
    size, model = (16, 'lecture_cnn') if settings.small else (settings.image_size, 'resnet18')
    batch = 4 if settings.small else settings.batch_size
    data.register('noise', functools.partial(_noise, size=size, count=4 * batch), kind='image')
    config = training.TrainConfig(
        dataset='noise', model=model, batch_size=batch, dtype=settings.train_dtype
    )
    one = Devices.all(jax.devices()[:1])
    job = training.make_job(config, one)
    resident = Loop(job)
    loops: dict[str, Callable[[int], None]] = {
        'the compiled step alone': StepAlone(resident),
        'images on the device': resident,
        'images read ahead': Loop(job, resident=False),
    }
    yield {'total': len(loops)}
    for name, loop in loops.items():
        loop(3)
        timed = steady(
            {name: Compiled(functools.partial(loop, 1), 0.0, 0.0, None)},
            rounds=3 if settings.small else 20, sample=0.0, limit=20.0,
        )[name]  # fmt: skip
        yield {
            'rows': [
                {
                    **{'loop': name, 'model': model, 'image_size': size, 'batch_size': batch},
                    **{'step_s': timed.median, 'iqr_s': timed.iqr},
                    'waits': loop.waits(5) if isinstance(loop, Loop) else None,
                }
            ]
        }


def _noise(place: Any, *, size: int, count: int) -> dict[str, Any]:
    del place
    rng = np.random.default_rng(0)

    def split(count: int) -> data.Split:
        images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
        return data.Split(images, rng.integers(0, 10, count).astype(np.int32))

    return {
        'splits': {'train': split(count), 'test': split(8)},
        'class_names': tuple(map(str, range(10))),
    }


PARTS = {'machine': machine, 'checks': checks, 'kernels': kernels, 'input': examples}


def main() -> None:
    task = json.load(sys.stdin)
    # Whatever a library prints goes to stderr.
    with os.fdopen(os.dup(1), 'w') as output:
        os.dup2(2, 1)
        for row in PARTS[task['part']](Settings(**task['settings'])):
            print(json.dumps(row, default=str), file=output, flush=True)


if __name__ == '__main__':
    main()

"""Defines tasks by name; `TASKS.register` adds a task.

A task connects a configuration to its job and describes a result in one line.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from cnn_jax.errors import UserError
from cnn_jax.registry import Registry
from cnn_jax.training.config import SCHEMA, FitConfig, RunConfig, TrainConfig
from cnn_jax.training.generation_config import GenerateConfig


@dataclasses.dataclass(frozen=True)
class Task:
    """The description of a task.

    Attributes:
        config: the configuration class; the task is registered under its `task`, or under one of
            its `tasks`.
        make_job: (config, folder of the run) -> a `job.BaseJob`. It raises UserError or OSError
            for an invalid configuration, before anything is computed or written.
        summary: content of `result.json` -> summary of the results, for the last line of a script.
        is_complete: (config, content of `result.json`) -> whether the run is complete.
    """

    config: type[RunConfig]
    make_job: Callable[[Any, pathlib.Path], Any]
    summary: Callable[[Mapping[str, Any]], str]
    is_complete: Callable[[Any, Mapping[str, Any]], bool] = lambda config, result: True


TASKS: Registry[Task] = Registry('task')


def read_config_text(text: str) -> RunConfig:
    """Reads the configuration of any task, as `RunConfig.to_json` wrote it.

    Raises:
        UserError: `text` is not a configuration, or has a task or field unknown to this version.
    """
    values = json.loads(text)
    if not isinstance(values, Mapping) or values.get('schema') != SCHEMA:
        raise UserError(f'not a training configuration of schema {SCHEMA}')
    return TASKS.lookup(values.get('task', TrainConfig.task)).config.from_json(text)


def _make_training_job(config: TrainConfig, folder: pathlib.Path) -> Any:
    from cnn_jax.training.job import make_job

    return make_job(config)


def _describe_training(result: Mapping[str, Any]) -> str:
    # Results of earlier versions do not name their metric.
    metric = result.get('metric', 'accuracy')
    split = next((name for name in ('test', 'validation') if name in result), None)
    if split is None:
        return f'{result["step"]} steps, not evaluated (no test or validation split)'
    averaged = ''
    if f'ema_{split}' in result:
        averaged = f' ({result[f"ema_{split}"][metric]:.4f} with averaged weights)'
    return f'{split} {metric.replace("_", " ")} {result[split][metric]:.4f}{averaged}'


def _refuse_fit(config: FitConfig, folder: pathlib.Path) -> Any:
    raise UserError(
        f'workdir={str(folder)!r} holds a run of training.fit: its model and data are objects of a '
        'program; run that program again'
    )


def _make_generation_job(config: GenerateConfig, folder: pathlib.Path) -> Any:
    from cnn_jax.training.generation_job import make_generation_job

    return make_generation_job(config, folder)


def _describe_generation(result: Mapping[str, Any]) -> str:
    from cnn_jax.training.generation_evaluation import describe

    lacking = '' if 'images' in result else ' (no --classifier_workdir: the images were not rated)'
    return f'{describe(dict(result))}{lacking}'


for _task in (TrainConfig.task, *TrainConfig.tasks):
    TASKS.register(_task, Task(TrainConfig, _make_training_job, _describe_training))
TASKS.register('fit', Task(FitConfig, _refuse_fit, _describe_training))
TASKS.register(
    'generation',
    Task(
        GenerateConfig,
        _make_generation_job,
        _describe_generation,
        # `classifier_workdir` can be set after the run; the images are then rated.
        lambda config, result: 'images' in result or not config.classifier_workdir,
    ),
)

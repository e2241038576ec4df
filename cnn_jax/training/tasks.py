"""Tasks by name; `TASKS.register` adds one.

A task connects a configuration to its job and describes a result in one line.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from cnn_jax.errors import UserError
from cnn_jax.registry import Registry
from cnn_jax.training.config import SCHEMA, GenerateConfig, RunConfig, TrainConfig


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        config: the class of its configurations, whose `task` is the name it is registered under.
        make_job: (config, folder of the run) -> a `job.BaseJob`. It raises UserError or OSError
            where something does not fit, before anything is computed or written.
        summary: the content of `result.json` -> what was reached, for the last line of a script.
        is_complete: (config, content of `result.json`) -> whether nothing is left to do.
    """

    config: type[RunConfig]
    make_job: Callable[[Any, pathlib.Path], Any]
    summary: Callable[[Mapping[str, Any]], str]
    is_complete: Callable[[Any, Mapping[str, Any]], bool] = lambda config, result: True


TASKS: Registry[Task] = Registry('task')


def read_config_text(text: str) -> RunConfig:
    """Reads the configuration of any task, as `RunConfig.to_json` wrote it.

    Raises:
        UserError: no such text, or a task or a field that this version does not know.
    """
    values = json.loads(text)
    if not isinstance(values, Mapping) or values.get('schema') != SCHEMA:
        raise UserError(f'not a training configuration of schema {SCHEMA}')
    return TASKS.lookup(values.get('task', TrainConfig.task)).config.from_json(text)


def _make_classifier_job(config: TrainConfig, folder: pathlib.Path) -> Any:
    from cnn_jax.training.job import make_job

    return make_job(config)


def _describe_classifier(result: Mapping[str, Any]) -> str:
    averaged = ''
    if 'ema_test' in result:
        averaged = f' ({result["ema_test"]["accuracy"]:.4f} with averaged weights)'
    return f'test accuracy {result["test"]["accuracy"]:.4f}{averaged}'


def _make_generation_job(config: GenerateConfig, folder: pathlib.Path) -> Any:
    from cnn_jax.training.generation_job import make_generation_job

    return make_generation_job(config, folder)


def _describe_generation(result: Mapping[str, Any]) -> str:
    from cnn_jax.training.generation_job import describe

    lacking = '' if 'images' in result else ' (no --classifier_workdir: the images were not rated)'
    return f'{describe(dict(result))}{lacking}'


TASKS.register('classification', Task(TrainConfig, _make_classifier_job, _describe_classifier))
TASKS.register(
    'generation',
    Task(
        GenerateConfig,
        _make_generation_job,
        _describe_generation,
        # A classifier can be named afterwards.
        lambda config, result: 'images' in result or not config.classifier_workdir,
    ),
)

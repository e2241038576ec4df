"""Writes rows of metrics to trackers: TensorBoard always, Weights & Biases or MLflow by `--track`.

`TRACKERS.register` adds your own:

@TRACKERS.register('mine')
class Mine:
    def __init__(self, folder, config, run_id): ...

A tracker must have the attributes of `Tracker`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cnn_jax.errors import UserError, first_line, optional_packages
from cnn_jax.output import write_whole
from cnn_jax.registry import Registry
from cnn_jax.training.processes import say

if TYPE_CHECKING:
    from cnn_jax.training.config import RunConfig

RUN_IDS = 'tracking.json'  # in the folder of the run: tracker -> its id of the run
PROJECT = 'cnn_jax'


class Sink(Protocol):
    """Receives the rows of metrics of one run."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes `row`, a 'step', an 'epoch' and numbers named '<split>_<metric>' or '<metric>'."""

    def close(self) -> None:
        """Waits until all rows are written."""


class Tracker(Sink, Protocol):
    """A sink outside of the run's folder, which continues a run by its id.

    Args:
        folder: the folder of the run.
        config: the configuration of the run.
        run_id: the tracker's id of a run to continue; None begins a new run.

    Attributes:
        run_id: the tracker's id of the run.
    """

    run_id: str

    def __init__(self, folder: pathlib.Path, config: RunConfig, run_id: str | None): ...

    @staticmethod
    def check() -> None:
        """Raises MissingPackageError if the package of the tracker is not installed."""


TRACKERS: Registry[type[Tracker]] = Registry('tracker')


class TensorBoard:
    """Writes event files for TensorBoard into the folder of the run.

    Args:
        folder: the folder of the run.
        step: the step from which the run resumes; TensorBoard hides later rows.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        with _hidden('torch'):  # tensorboardX imports it where it can; this takes seconds
            from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(folder), purge_step=step + 1, flush_secs=10)

    def write(self, row: Mapping[str, Any]) -> None:
        for name, value in _numbers(row).items():
            self._board.add_scalar(name.replace('_', '/', 1), value, row['step'])

    def close(self) -> None:
        self._board.close()


@TRACKERS.register('wandb')
class Wandb:
    """Writes to Weights & Biases; its environment variables (WANDB_MODE, ...) apply.

    W&B drops rows whose step is not above the last one, but a run that was killed has written rows
    after its checkpoint. Therefore the step is a metric here, and W&B numbers the rows by itself.
    """

    def __init__(self, folder: pathlib.Path, config: RunConfig, run_id: str | None):
        import wandb

        self._run = wandb.init(
            project=os.environ.get('WANDB_PROJECT', PROJECT),
            name=folder.name,
            dir=str(folder),
            config=dataclasses.asdict(config),
            id=run_id,
            resume='allow',
            settings=wandb.Settings(console='off'),
        )
        self._run.define_metric('*', step_metric='step')
        self.run_id = self._run.id

    @staticmethod
    def check() -> None:
        with optional_packages('wandb'):
            import wandb  # noqa: F401

    def write(self, row: Mapping[str, Any]) -> None:
        self._run.log(dict(row))

    def close(self) -> None:
        self._run.finish()


@TRACKERS.register('mlflow')
class MLflow:
    """Writes to MLflow; its environment variables (MLFLOW_TRACKING_URI, ...) apply."""

    def __init__(self, folder: pathlib.Path, config: RunConfig, run_id: str | None):
        import mlflow

        if 'MLFLOW_EXPERIMENT_NAME' not in os.environ and 'MLFLOW_EXPERIMENT_ID' not in os.environ:
            mlflow.set_experiment(PROJECT)
        self._mlflow = mlflow
        self.run_id = mlflow.start_run(run_id, run_name=folder.name).info.run_id
        if run_id is None:  # parameters of a run cannot change
            mlflow.log_params(dataclasses.asdict(config))

    @staticmethod
    def check() -> None:
        with optional_packages('mlflow'):
            import mlflow  # noqa: F401

    def write(self, row: Mapping[str, Any]) -> None:
        self._mlflow.log_metrics(_numbers(row), step=row['step'], run_id=self.run_id)

    def close(self) -> None:
        self._mlflow.end_run()


def check(names: Sequence[str]) -> None:
    """Raises MissingPackageError if the package of one of the named trackers is not installed."""
    for name in names:
        TRACKERS.lookup(name).check()


class Trackers:
    """The trackers of one run, whose ids are kept in the folder of the run.

    A tracker that fails later is given up with a warning, because it must not end the training.

    Args:
        folder: the folder of the run.
        config: the configuration, whose `track` names the trackers.

    Raises:
        UserError: a tracker cannot be opened.
    """

    def __init__(self, folder: pathlib.Path, config: RunConfig):
        file = folder / RUN_IDS
        ids = json.loads(file.read_text()) if file.exists() else {}
        self._open: dict[str, Tracker] = {}
        for name in config.read_track():
            try:
                self._open[name] = TRACKERS.lookup(name)(folder, config, ids.get(name))
            except Exception as error:
                self.close()
                raise UserError(f'track={name!r}: {first_line(error)}') from error
            ids[name] = self._open[name].run_id
        if self._open:
            with write_whole(file) as output:
                output.write(json.dumps(ids) + '\n')

    def write(self, row: Mapping[str, Any]) -> None:
        self._each(lambda tracker: tracker.write(row))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())

    def _each(self, action) -> None:
        for name, tracker in list(self._open.items()):
            try:
                action(tracker)
            except Exception as error:
                del self._open[name]
                say(f'warning: {name} gets no more metrics ({first_line(error)})')


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Makes imports of `package` fail within this context, unless it has been imported."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ('step', 'epoch')}

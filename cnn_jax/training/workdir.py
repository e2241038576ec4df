"""Manages the working folder of a run: its owner, its lock and its small files.

config.json     the configuration (`RunConfig`)
dataset.json    description of the data set without its examples (`Dataset.describe`); for texts
                it includes the vocabulary
checkpoints/    one folder per step
metrics.jsonl   metrics, one JSON object per line
events.*        the same metrics for TensorBoard
tracking.json   the ids of the run in other trackers (`tracking`)
result.json     the final metrics; written last, so its presence means that the run is finished
pictures/       PNG files
"""

import fcntl
import hashlib
import io
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import IO, Any

from cnn_jax.data import Dataset
from cnn_jax.data.catalog import CATALOG
from cnn_jax.errors import UserError
from cnn_jax.output import write_whole
from cnn_jax.training import processes
from cnn_jax.training.config import RunConfig
from cnn_jax.training.tasks import read_config_text
from cnn_jax.training.tracking import Sink

CONFIG, METRICS, RESULT, LOCK = 'config.json', 'metrics.jsonl', 'result.json', '.lock'
DATASET = 'dataset.json'
LOGS = 'logs'  # written by scripts that launch runs; may exist before the run


class WorkdirError(UserError):
    """The run must not use, or cannot read or write, its working folder."""


class Workdir:
    """The working folder of one run.

    The constructor only checks the folder; `with workdir.hold():` creates and locks it.

    Args:
        path: the folder, which need not exist.
        config: the configuration of the run.

    Raises:
        WorkdirError: the folder belongs to another configuration or holds unrelated files.
    """

    def __init__(self, path: str | os.PathLike, config: RunConfig):
        if '://' in str(path):
            raise WorkdirError(f'workdir={str(path)!r}: must be a local folder')
        self.path = pathlib.Path(path).expanduser().absolute()
        self._config = config
        self._check_owner()

    def hold(self, task: str = '') -> IO:
        """Creates the folder and its configuration file, and locks the folder.

        With several processes the first process does this, and all of them raise its error.

        Args:
            task: the task of the data set, for a new configuration file; see `RunConfig.to_json`.

        Returns:
            The lock. Use it as a context manager or call `close`. The lock is also released when
            the process ends.

        Raises:
            WorkdirError: another process holds the lock, or the folder cannot be written. The files
                of the run stay unchanged.
        """
        if not processes.is_first():
            processes.agree(None)
            return io.StringIO()
        try:
            lock = self._take(task)
        except WorkdirError as error:
            processes.agree(str(error))
            raise
        processes.agree(None)
        return lock

    def _take(self, task: str) -> IO:
        lock = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / LOCK, 'a')
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check_owner()  # again: another process may have written before
            if not (self.path / CONFIG).exists():
                write_atomically(self.path / CONFIG, self._config.to_json(task))
            return lock
        except (OSError, WorkdirError) as error:
            if lock is not None:
                lock.close()
            if isinstance(error, WorkdirError):
                raise
            what = (
                'is in use by another process'
                if isinstance(error, BlockingIOError)
                else (f'cannot be written: {error}')
            )
            raise WorkdirError(f'workdir={str(self.path)!r} {what}') from error

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.path / 'checkpoints'

    @property
    def pictures(self) -> pathlib.Path:
        return self.path / 'pictures'

    def result(self) -> dict[str, Any] | None:
        """Returns the result that `finish` wrote, or None."""
        try:
            return json.loads((self.path / RESULT).read_text())
        except FileNotFoundError:
            return None

    def moved_data(self) -> bool:
        """Returns whether `data_dir` differs from the saved run's, so data must be compared."""
        if not (self.path / CONFIG).exists():
            return False
        folders = (each.data_dir for each in (read_config(self.path), self._config))
        there, here = (pathlib.Path(each).expanduser().absolute() for each in folders)
        return there != here

    def describe(self, dataset: Dataset) -> None:
        """Writes the description of `dataset` that `described` reads."""
        write_atomically(self.path / DATASET, json.dumps(dataset.describe(), indent=1) + '\n')

    def check_dataset(self, dataset: Dataset, *, examples: bool = True, remedy: str = '') -> None:
        """Checks that `dataset` is the data set that the run was trained on, if it is recorded.

        Args:
            dataset: the data set to check.
            examples: see `Dataset.differences`.
            remedy: advice for the error message; by default, to use another folder or the
                original data.

        Raises:
            WorkdirError: the data sets differ; the message lists the differences.
        """
        description = self._description()
        if description is None:
            return
        if found := dataset.differences(description, examples=examples):
            remedy = remedy or 'use another workdir, or the original data of the run'
            listed = '; '.join(found)
            raise WorkdirError(
                f'workdir={str(self.path)!r} was trained on different data ({listed}); {remedy}'
            )

    def described(self) -> Dataset | None:
        """Returns the data set of the run without its examples, or None if it was not written.

        Raises:
            WorkdirError: the description cannot be read.
        """
        description = self._description()
        return None if description is None else Dataset.described(description)

    def _description(self) -> dict[str, Any] | None:
        file = self.path / DATASET
        try:
            description = json.loads(file.read_text())
            Dataset.described(description)
            return description
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WorkdirError(f'{file} cannot be read: {error!r}') from error

    def finish(self, result: Mapping[str, Any]) -> None:
        write_atomically(self.path / RESULT, json.dumps(finite(result), indent=2) + '\n')

    def _check_owner(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise WorkdirError(f'workdir={str(self.path)!r} is a file, not a folder')
        if not (self.path / CONFIG).exists():
            others = [p.name for p in self.path.glob('*') if p.name not in (LOCK, LOGS)]
            if others:
                raise WorkdirError(
                    f'workdir={str(self.path)!r} holds {sorted(others)[0]!r} but no {CONFIG}: '
                    'not a training run; use an empty or new folder'
                )
            return
        there = read_config(self.path)
        if there.task != self._config.task:
            raise WorkdirError(
                f'workdir={str(self.path)!r} belongs to a run of {there.task}, not of '
                f'{self._config.task}; use another workdir'
            )
        if differences := there.differences(self._config):
            listed = ', '.join(
                f'{n}={here!r} in the run, {mine!r} now' for n, (here, mine) in differences.items()
            )
            raise WorkdirError(
                f'workdir={str(self.path)!r} belongs to another configuration ({listed}); use '
                'another workdir, or the same flags to resume the run'
            )


def read_config(path: str | os.PathLike) -> RunConfig:
    """Returns the configuration of the run in a folder, for any task.

    Raises:
        WorkdirError: the folder has no configuration, or it cannot be read.
    """
    file = pathlib.Path(path).expanduser() / CONFIG
    try:
        return read_config_text(file.read_text())
    except FileNotFoundError:
        raise WorkdirError(f'workdir={str(path)!r} holds no {CONFIG}: not a training run') from None
    except (OSError, ValueError, TypeError) as error:
        raise WorkdirError(f'{file} cannot be read: {error}') from error


def default_name(config: RunConfig) -> str:
    """Returns the folder name '<dataset>-<model>-<6 hex digits>' for a configuration.

    The digits are a hash of the identity of the configuration and, for data sets of a user's own
    files, of the data folder.
    """
    identity = config.identity()
    entry = CATALOG.get(config.dataset.partition(':')[0])
    if entry is not None and entry.is_users:
        identity['data_dir'] = str(pathlib.Path(config.data_dir).expanduser().absolute())
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:6]
    names = [re.sub('[^A-Za-z0-9_.]+', '-', _short(n)) for n in (config.dataset, config.model)]
    return '-'.join([*names, digest])


def _short(name: str) -> str:
    """Returns a name without the folder and suffix of a user's file."""
    return re.sub(r'^.*?([^/]*)\.py:', r'\1-', name)


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes a file completely or not at all, even if the machine crashes."""
    with write_whole(path) as file:
        file.write(text)


def finite(values: Any) -> Any:
    """Replaces NaN and infinities, which JSON cannot represent, by None."""
    if isinstance(values, Mapping):
        return {key: finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


class MetricsLog:
    """Writes rows of metrics to metrics.jsonl and to other sinks.

    Args:
        folder: the folder of the run.
        step: the step from which the run resumes. Later rows, left by a killed run, are removed.
        sinks: what else receives the rows.
    """

    def __init__(self, folder: pathlib.Path, step: int, sinks: Sequence[Sink] = ()):
        kept = [row for row in read_metrics(folder) if row['step'] <= step]
        lines = ''.join(json.dumps(row) + '\n' for row in kept)
        write_atomically(folder / METRICS, lines)
        self._file = open(folder / METRICS, 'a', buffering=1)
        self._sinks = sinks

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes `row`, a 'step' and numbers named '<split>_<metric>' or '<metric>'."""
        self._file.write(json.dumps(finite(row)) + '\n')
        for sink in self._sinks:
            sink.write(row)

    def close(self) -> None:
        self._file.close()
        for sink in self._sinks:
            sink.close()


def read_metrics(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl; a truncated last line is ignored."""
    try:
        lines = (pathlib.Path(folder) / METRICS).read_text().splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows

"""Trains models: state, step, loop, checkpoints and metrics. See docs/training.md."""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from cnn_jax.errors import optional_packages

with optional_packages('train'):
    from cnn_jax.training.checkpoints import Checkpoints, DamagedError, MismatchError, SaveError
    from cnn_jax.training.config import TrainConfig
    from cnn_jax.training.job import Job, load_data, make_job, make_net
    from cnn_jax.training.loop import Interrupted, NotFiniteError, train
    from cnn_jax.training.members import Members, divide_cores, make_members
    from cnn_jax.training.members_loop import train_members
    from cnn_jax.training.metrics import class_table, summary
    from cnn_jax.training.objectives import Objective
    from cnn_jax.training.own import Fitted, fit
    from cnn_jax.training.saved import SavedRun, load_run
    from cnn_jax.training.state import FunctionalModel, TrainState, init_state
    from cnn_jax.training.step import make_step
    from cnn_jax.training.workdir import Workdir, WorkdirError, read_config, read_metrics

if TYPE_CHECKING:
    from cnn_jax.training.report import draw

__all__ = [
    'Checkpoints',
    'DamagedError',
    'Fitted',
    'Interrupted',
    'Job',
    'FunctionalModel',
    'Members',
    'MismatchError',
    'NotFiniteError',
    'Objective',
    'SaveError',
    'SavedRun',
    'TrainConfig',
    'TrainState',
    'Workdir',
    'WorkdirError',
    'class_table',
    'divide_cores',
    'draw',
    'fit',
    'init_state',
    'load_data',
    'load_run',
    'make_job',
    'make_members',
    'make_net',
    'make_step',
    'read_config',
    'read_metrics',
    'summary',
    'train',
    'train_members',
]


_RENAMED = {'Net': 'FunctionalModel'}


def __getattr__(name: str) -> Any:
    if name in ('draw', 'report'):  # here, because Matplotlib takes 0.3 s to import
        report = importlib.import_module('cnn_jax.training.report')
        return report if name == 'report' else report.draw
    if name not in _RENAMED:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    new = _RENAMED[name]
    warnings.warn(f'cnn_jax.training.{name} is now {new}', DeprecationWarning, stacklevel=2)
    return globals()[new]

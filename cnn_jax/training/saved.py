"""Loads a trained model from the folder of its run."""

import dataclasses
import os
from typing import Any

import jax

from cnn_jax.data import Dataset
from cnn_jax.training.checkpoints import Checkpoints
from cnn_jax.training.config import FitConfig, TrainConfig
from cnn_jax.training.devices import Devices
from cnn_jax.training.evaluation import SplitEvaluator
from cnn_jax.training.job import load_data, make_net
from cnn_jax.training.objectives import Objective, make_objective
from cnn_jax.training.state import Arrays, FunctionalModel
from cnn_jax.training.workdir import Workdir, WorkdirError, read_config


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A saved run: its configuration, data set, model and parameters."""

    config: TrainConfig
    dataset: Dataset
    net: FunctionalModel
    objective: Objective
    step: int
    params: Arrays
    model_state: Arrays
    devices: Devices

    def evaluate(self, split: str, batch_size: int = 0, *, flips: bool = False) -> dict[str, Any]:
        """Returns `Objective.sums` of a split.

        Args:
            split: name of the split.
            batch_size: number of examples per batch; 0 means the batch size of the training.
            flips: whether to average the logits of each image and of its mirror image.
        """
        size = batch_size or self.config.batch_size
        size += -size % self.devices.parts
        split_ = self.dataset.splits[split]
        evaluator = SplitEvaluator(
            self.net, self.objective, self.dataset, split_, self.devices, size, flips=flips
        )
        return evaluator(self.params, self.model_state)


def load_run(
    path: str | os.PathLike,
    *,
    step: int | str | None = None,
    averaged: bool = False,
    data_dir: str = '',
    examples: bool = True,
    mesh: str = '',
) -> SavedRun:
    """Reads a run without changing anything in its folder.

    Args:
        path: the working folder.
        step: the step of the checkpoint, or 'best'; None means the newest undamaged checkpoint.
        averaged: whether to load the moving average instead of the parameters.
        data_dir: replaces the `data_dir` of the configuration unless empty.
        examples: whether to load the examples. If False, the data set is built from the
            description in the folder, if there is one, and its splits are empty.
        mesh: how evaluations use the devices, which may differ from the training; see
            `TrainConfig.mesh`.

    Raises:
        ValueError: the folder holds no run or no such checkpoint, the checkpoint is damaged, or
            `mesh` does not fit the devices or the data set.
        OSError: the data set is not available.
    """
    config = read_config(path)
    if not isinstance(config, TrainConfig):
        raise WorkdirError(
            f'workdir={str(path)!r} holds a run of {config.task}, not of {TrainConfig.task}'
        )
    if isinstance(config, FitConfig) and not config.has_names:
        raise WorkdirError(
            f'workdir={str(path)!r} holds a run of training.fit, whose model and data are objects '
            'of a program: run that program again, which returns the finished run'
        )
    if data_dir:
        config = dataclasses.replace(config, data_dir=data_dir)
    workdir = Workdir(path, config)
    folder = workdir.checkpoints
    if not folder.is_dir():
        raise WorkdirError(f'workdir={str(path)!r} holds no checkpoint')
    described = workdir.described()
    dataset = load_data(config) if examples or described is None else described
    if described is not None and examples:
        # Another folder may hold other examples of the same classes. They are normalised with the
        # statistics of the run.
        remedy = (
            'use the data_dir of the training' if data_dir else 'give the other data as data_dir'
        )
        workdir.check_dataset(dataset, examples=not data_dir, remedy=remedy)
        dataset = dataclasses.replace(dataset, mean=described.mean, std=described.std)
    net, objective = make_net(config, dataset), make_objective(config, dataset)
    devices = Devices.all(mesh=mesh)
    devices.check_strips(dataset.input_shape)
    name = 'ema' if averaged else 'params'
    if averaged and not config.ema:
        raise WorkdirError(
            f'workdir={str(path)!r} has no averaged weights: it was trained without ema'
        )
    lie = devices.replicated
    like = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=lie),
        {name: net.params, 'rest': net.model_state},
    )
    with Checkpoints(folder, read_only=True) as checkpoints:
        if step is None:
            found = checkpoints.restore_newest(like, partial=True)
        else:
            found = checkpoints.restore(checkpoints.find(step), like, partial=True)
    if found is None:
        raise WorkdirError(f'workdir={str(path)!r} holds no checkpoint')
    state, meta = found
    return SavedRun(
        config, dataset, net, objective, meta['step'], state[name], state['rest'], devices
    )

"""A trained model, from the folder of its run alone."""

import dataclasses
import os
from typing import Any

import jax

from cnn_jax.data import Dataset
from cnn_jax.training.checkpoints import Checkpoints
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.devices import Devices
from cnn_jax.training.evaluation import SplitEvaluator
from cnn_jax.training.job import load_data, make_net
from cnn_jax.training.state import Arrays, FunctionalModel
from cnn_jax.training.workdir import Workdir, WorkdirError, read_config


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """The run in a folder: configuration, data set, model and parameters."""

    config: TrainConfig
    dataset: Dataset
    net: FunctionalModel
    step: int
    params: Arrays
    model_state: Arrays
    devices: Devices

    def evaluate(self, split: str, batch_size: int = 0, *, flips: bool = False) -> dict[str, Any]:
        """Sums over a split, see `metrics`; batches as in training where `batch_size` is 0.

        `flips`: the logits of an image are the mean of its own and its mirror image's.
        """
        size = batch_size or self.config.batch_size
        size += -size % self.devices.count
        split_ = self.dataset.splits[split]
        evaluator = SplitEvaluator(self.net, self.dataset, split_, self.devices, size, flips=flips)
        return evaluator(self.params, self.model_state)


def load_run(
    path: str | os.PathLike,
    *,
    step: int | str | None = None,
    averaged: bool = False,
    data_dir: str = '',
    examples: bool = True,
) -> SavedRun:
    """Reads a run; nothing in its folder is changed.

    Args:
        path: the working folder.
        step: which checkpoint, or 'best'; None for the newest whole one.
        averaged: the moving average in place of the parameters.
        data_dir: in place of the configuration's.
        examples: False: the data set as the folder describes it, whose splits are then empty.

    Raises:
        ValueError: no run there, no (such) checkpoint, or a damaged one.
        OSError: the data set is not available.
    """
    config = read_config(path)
    if not isinstance(config, TrainConfig):
        raise WorkdirError(
            f'workdir={str(path)!r} holds a run of {config.task}, not of {TrainConfig.task}'
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
        # Another folder may hold other examples of the same classes; the statistics stay the run's.
        remedy = (
            'name the data_dir of the training' if data_dir else 'name other data with data_dir'
        )
        workdir.check_dataset(dataset, examples=not data_dir, remedy=remedy)
        dataset = dataclasses.replace(dataset, mean=described.mean, std=described.std)
    net = make_net(config, dataset)
    devices = Devices.all()
    name = 'ema' if averaged else 'params'
    if averaged and not config.ema:
        raise WorkdirError(f'workdir={str(path)!r} has no averaged weights: it had no ema')
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
    return SavedRun(config, dataset, net, meta['step'], state[name], state['rest'], devices)

"""Reads the weights of a run without its model, to initialise another run or to export them."""

import os
from typing import Any

import jax
import numpy as np

from cnn_jax.errors import UserError
from cnn_jax.models import pretrained
from cnn_jax.training.checkpoints import Checkpoints, DamagedError
from cnn_jax.training.processes import say
from cnn_jax.training.state import FunctionalModel, TrainState
from cnn_jax.training.workdir import Workdir, WorkdirError, read_config

KINDS = ('params', 'ema')


def read_weights(
    path: str | os.PathLike, *, averaged: bool = False, step: int | str | None = None
) -> tuple[dict[str, np.ndarray], int]:
    """Returns parameters and model state (batch statistics) of a run by name, and their step.

    Args:
        path: the working folder of the run.
        averaged: whether to read the moving average instead of the parameters.
        step: the step of the checkpoint, or 'best'; None means the newest undamaged checkpoint.

    Raises:
        ValueError: the run, the checkpoint or the average does not exist, or the checkpoint is
            damaged.
    """
    folder = Workdir(path, read_config(path)).checkpoints
    if not folder.is_dir():
        raise WorkdirError(f'workdir={str(path)!r} holds no checkpoint')
    with Checkpoints(folder, read_only=True) as checkpoints:
        newest_first = reversed(checkpoints.steps())
        for candidate in newest_first if step is None else [checkpoints.find(step)]:
            try:
                return _read(checkpoints, candidate, KINDS[averaged]), candidate
            except DamagedError as error:
                say(f'checkpoint {candidate} of {path} is damaged ({error})')
    raise WorkdirError(f'workdir={str(path)!r} holds no undamaged checkpoint')


def _read(checkpoints: Checkpoints, step: int, kind: str) -> dict[str, np.ndarray]:
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = {
        name: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=one)
        for name, s in checkpoints.shapes(step).items()
        if name.partition('/')[0] in (kind, 'rest')
    }
    if not any(name.startswith(kind + '/') for name in shapes):
        raise WorkdirError(
            f'{checkpoints.folder.parent} has no averaged weights: it was trained without ema'
        )
    flat, _ = checkpoints.restore(step, shapes, partial=True)
    # Averages of generators include batch statistics, which then replace those of the last step.
    kinds: dict[str, dict[str, np.ndarray]] = {'rest': {}, kind: {}}
    for name, value in flat.items():
        group, _, own = name.partition('/')
        kinds[group][own] = np.asarray(value)
    return kinds['rest'] | kinds[kind]


def take_over(values: dict[str, Any], source: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns `values`, replaced by arrays of `source` with the same name and shape.

    Prints a line for arrays that do not match.

    Raises:
        ValueError: no array matches.
    """
    fitting = {n for n, v in values.items() if n in source and source[n].shape == v.shape}
    if not fitting:
        raise UserError('init_from: no array of that run matches this model in name and shape')
    for name in sorted(set(values) - fitting):
        there = f'{source[name].shape} in that run' if name in source else 'missing from that run'
        say(f'init_from: {name} {values[name].shape} is {there}; it keeps its initial values')
    if unused := sorted(set(source) - set(values)):
        say(f'init_from: not used from that run: {", ".join(unused)}')
    return {n: source[n].astype(v.dtype) if n in fitting else v for n, v in values.items()}


def check_torchvision(net: FunctionalModel, path: str) -> None:
    """Raises the error of `from_torchvision`, if any: ValueError, OSError or ImportError."""
    tensors = pretrained.read(path)
    pretrained.fitting(net.model, tensors, head=pretrained.head_fits(net.model, tensors))


def from_torchvision(net: FunctionalModel, state: TrainState, path: str) -> dict[str, jax.Array]:
    """Returns parameters and model state from a file in torchvision's layout.

    If the last layer of the file has a different number of classes or is missing, the layer keeps
    its initial values, and a message says so.

    Raises:
        ValueError: the file does not fit the model; see `models.pretrained.load_torchvision`.
    """
    tensors = pretrained.read(path)
    model = net.merge(state.params, state.model_state)
    head = pretrained.head_fits(model, tensors)
    pretrained.put_torchvision(model, tensors, head=head)
    anew = '; the last layer keeps its initial values: the file has other classes, or none'
    say(f'weights of {path}' + ('' if head else anew))
    params, rest = net.split(model)
    return params | rest

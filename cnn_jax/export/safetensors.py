"""Weights alone, as safetensors."""

import os

import jax
import numpy as np

from cnn_jax.errors import UserError
from cnn_jax.models.pretrained import torchvision_tensors
from cnn_jax.training import load_run, read_config
from cnn_jax.training.weights import read_weights

SUFFIX = '.safetensors'
NAMES = ('cnn_jax', 'torchvision')


def export_weights(
    path: str | os.PathLike,
    *,
    averaged: bool = False,
    step: int | str | None = None,
    names: str = 'cnn_jax',
) -> tuple[bytes, int]:
    """Returns the weights and configuration of a run in the format of safetensors, and the step.

    Args:
        path: the working folder.
        averaged: whether to take the moving average instead of the parameters.
        step: the step of the checkpoint, or 'best'; None means the newest undamaged checkpoint.
        names: 'cnn_jax' (names as 'layers/conv1/kernel'; works for every run, batch norm is not
            folded), or 'torchvision' (names and layout of the same model there).

    Raises:
        ValueError: see `read_weights`; or torchvision does not have the model.
    """
    from safetensors.numpy import save

    if names not in NAMES:
        raise UserError(f'names={names!r}: must be {" or ".join(NAMES)}')
    if names == 'torchvision':
        run = load_run(path, step=step, averaged=averaged, examples=False)
        model = run.net.merge(*jax.device_get((run.params, run.model_state)))
        tensors, found = torchvision_tensors(model), run.step
    else:
        tensors, found = read_weights(path, averaged=averaged, step=step)
    # safetensors writes the memory of an array as it lies
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    return save(tensors, {'step': str(found), 'config': read_config(path).to_json()}), found

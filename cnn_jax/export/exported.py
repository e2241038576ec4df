"""Runs exported networks on files, as `predict.py` does."""

import dataclasses
import os
import pathlib
from collections.abc import Callable

import numpy as np

from cnn_jax.data import Dataset
from cnn_jax.errors import UserError
from cnn_jax.export import onnx, stablehlo
from cnn_jax.export.files import read_about
from cnn_jax.registry import Registry
from cnn_jax.training.prediction import in_batches

Function = Callable[[np.ndarray], np.ndarray]

# suffix -> function that reads a file and returns its network: raw inputs (N, ...) to outputs
READERS: Registry[Callable[[pathlib.Path], Function]] = Registry('exported format')
READERS.register(stablehlo.SUFFIX, stablehlo.read_program)
READERS.register(onnx.SUFFIX, onnx.read_model)


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported network.

    Attributes:
        dataset: the data set of the training, without examples.
        predict: raw inputs (N, ...) -> predictions, as `prediction.predictions` returns them.
        step: the step of the weights.
    """

    dataset: Dataset
    predict: Function
    step: int


def read_exported(path: str | os.PathLike) -> Exported:
    """Reads an exported network and its description.

    Raises:
        UserError: a file is missing, damaged, of an unknown format, or it does not classify.
    """
    file = pathlib.Path(path).expanduser()
    if file.suffix not in READERS:
        known = ' or '.join(READERS)
        raise UserError(f'exported={str(path)!r}: the name must end in {known}')
    about = read_about(file)
    if about['task'] == 'generation':
        raise UserError(f'exported={str(path)!r}: {about["name"]} predicts nothing about images')
    dataset = Dataset.described(about['dataset'])
    call = READERS[file.suffix](file)

    def predict(inputs: np.ndarray) -> np.ndarray:
        outputs = in_batches(call, inputs)
        # As `Segmentation.predictions`: classes, of probabilities per pixel.
        return outputs.argmax(-1).astype(np.uint8) if dataset.task == 'segmentation' else outputs

    return Exported(dataset, predict, about['step'])

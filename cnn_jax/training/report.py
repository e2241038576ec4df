"""Draws the pictures of a finished run."""

from typing import Any

import jax
import numpy as np

from cnn_jax.data import Dataset
from cnn_jax.training.job import Job
from cnn_jax.training.state import Arrays, FunctionalModel, TrainState
from cnn_jax.training.workdir import Workdir, read_metrics
from cnn_jax.viz import runs

EXAMPLES = 4  # number of test images whose feature maps are drawn


def draw(workdir: Workdir, job: Job, state: TrainState, result: dict[str, Any]) -> None:
    """Draws learning curves and the confusion matrix; for images also filters and feature maps."""
    net, dataset, params, model_state = job.net, job.dataset, state.params, state.model_state
    folder = workdir.pictures
    runs.learning_curves(read_metrics(workdir.path), folder / 'learning_curves.png')
    runs.confusion_matrix(
        result['test']['confusion'],
        dataset.class_names,
        folder / 'confusion_matrix.png',
        title=f'{dataset.name}, test',
    )
    if dataset.kind != 'image':
        return
    kernels = [name for name, p in params.items() if name.endswith('kernel') and p.ndim == 4]
    if kernels:
        runs.filters(np.asarray(params[kernels[0]]), folder / 'filters.png', title=kernels[0])
    inputs = dataset.splits['test'].inputs[:EXAMPLES]
    maps = layer_results(net, dataset, params, model_state, inputs)
    runs.feature_maps(maps, inputs, folder / 'feature_maps.png', title=dataset.name)


def layer_results(
    net: FunctionalModel, dataset: Dataset, params: Arrays, model_state: Arrays, inputs: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the output (N, ...) of every layer for `inputs`, in the order of the layers."""
    order: list[str] = []  # jit returns a dict sorted by name

    @jax.jit
    def run(params, model_state, inputs):
        maps: dict[str, jax.Array] = {}
        net.predict(params, model_state, dataset.normalize(inputs), maps)
        order.extend(maps)
        return maps

    maps = run(params, model_state, inputs)
    return {name: np.asarray(maps[name]) for name in order}

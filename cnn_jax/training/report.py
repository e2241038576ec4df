"""Completes a run: trains, draws its pictures, and writes its result."""

import os
import pathlib
import sys
import traceback
from typing import Any

import jax
import numpy as np

from cnn_jax.data import Dataset
from cnn_jax.errors import first_line
from cnn_jax.tables import printable
from cnn_jax.training.job import BaseJob, Job
from cnn_jax.training.loop import train
from cnn_jax.training.processes import is_first
from cnn_jax.training.state import Arrays, FunctionalModel, TrainState
from cnn_jax.training.workdir import Workdir, read_metrics
from cnn_jax.viz import masks, runs

EXAMPLES = 4  # number of test images whose feature maps are drawn
MASKS = 6  # number of images whose masks are drawn


def complete(job: BaseJob, workdir: Workdir) -> tuple[TrainState, dict[str, Any]]:
    """Trains to the last step, draws the pictures and writes `result.json`.

    Returns:
        See `loop.train`, which also lists what is raised. Pictures that cannot be drawn are a
        warning, since they must not lose the result.
    """
    state, result = train(job, workdir)
    if is_first():
        draw_or_warn(job, workdir, state, result)
        workdir.finish(result)
    return state, result


def draw_or_warn(job: BaseJob, workdir: Workdir, state: TrainState, result: dict[str, Any]) -> None:
    """Draws the pictures of a job; prints a warning if that fails."""
    try:
        job.draw(workdir, state, result)
    except Exception as error:
        if os.environ.get('CNN_JAX_TRACEBACK'):
            traceback.print_exc()
        problem = printable(' '.join(first_line(error).split()))
        print(f'warning: not all pictures could be drawn ({problem})', file=sys.stderr)


def draw(workdir: Workdir, job: Job, state: TrainState, result: dict[str, Any]) -> None:
    """Draws learning curves and the confusion matrix; for images also filters and feature maps.

    The confusion matrix needs one class per example, and the feature maps a model that can record
    them (`models.Classifier`). For segmentation, true and predicted masks are drawn.
    """
    net, dataset, params, model_state = job.net, job.dataset, state.params, state.model_state
    folder = workdir.pictures
    runs.learning_curves(
        read_metrics(workdir.path), folder / 'learning_curves.png', metric=job.objective.metric
    )
    if 'confusion' in result.get(job.watched or '', {}):
        split = 'test' if 'test' in result else job.watched
        runs.confusion_matrix(
            result[split]['confusion'],
            dataset.class_names,
            folder / 'confusion_matrix.png',
            title=f'{dataset.name}, {split}',
        )
    if dataset.task == 'segmentation':
        _draw_masks(job, state, folder / 'masks.png')
    if dataset.kind != 'image':
        return
    kernels = [name for name, p in params.items() if name.endswith('kernel') and p.ndim == 4]
    if kernels:
        runs.filters(np.asarray(params[kernels[0]]), folder / 'filters.png', title=kernels[0])
    if not net.records_layers:
        return
    inputs = dataset.splits[job.watched or 'train'].inputs[:EXAMPLES]
    maps = layer_results(net, dataset, params, model_state, inputs)
    runs.feature_maps(maps, inputs, folder / 'feature_maps.png', title=dataset.name)


def _draw_masks(job: Job, state: TrainState, path: pathlib.Path) -> None:
    split = job.dataset.splits[job.watched or 'train'].take(slice(MASKS))

    @jax.jit
    def predict(params, model_state, inputs):
        outputs = job.net.predict(params, model_state, job.dataset.normalize(inputs))
        return job.objective.predictions(outputs)

    predicted = predict(state.params, state.model_state, split.inputs[:])
    title = f'{job.dataset.name}, {job.watched or "train"}'
    masks.draw(split.inputs[:], split.labels, predicted, job.dataset.class_names, path, title=title)


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

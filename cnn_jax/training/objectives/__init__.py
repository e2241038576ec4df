"""Defines objectives by task; `OBJECTIVES.register` adds one.

An objective is what a model is trained for: see `base.Objective`. The task of a data set
(`Dataset.task`) selects it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from cnn_jax.errors import UserError
from cnn_jax.registry import Registry
from cnn_jax.training.objectives.base import Objective
from cnn_jax.training.objectives.classification import Classification, balanced
from cnn_jax.training.objectives.multilabel import MultiLabel
from cnn_jax.training.objectives.own import OwnLoss
from cnn_jax.training.objectives.regression import Regression
from cnn_jax.training.objectives.segmentation import Segmentation

if TYPE_CHECKING:
    from cnn_jax.data import Dataset
    from cnn_jax.training.config import TrainConfig

__all__ = [
    'OBJECTIVES',
    'Classification',
    'MultiLabel',
    'Objective',
    'OwnLoss',
    'Regression',
    'Segmentation',
    'make_objective',
]

# task of a data set -> (configuration, data set) -> the objective
OBJECTIVES: Registry[Callable[[TrainConfig, Dataset], Objective]] = Registry('task')


@OBJECTIVES.register('classification')
def _classification(config: TrainConfig, dataset: Dataset) -> Objective:
    given = config.read_class_weights()
    weights = (
        balanced(dataset.splits['train'].labels, dataset.class_names)
        if given == 'balanced'
        else tuple(map(float, given))
    )
    if weights and len(weights) != dataset.num_classes:
        raise UserError(
            f'class_weights={config.class_weights!r}: has {len(weights)} numbers, must be one for '
            f'each of the {dataset.num_classes} classes'
        )
    return Classification(dataset.num_classes, config.label_smoothing, weights)


@OBJECTIVES.register('multilabel')
def _multilabel(config: TrainConfig, dataset: Dataset) -> Objective:
    return MultiLabel(dataset.num_classes, config.label_smoothing)


@OBJECTIVES.register('regression')
def _regression(config: TrainConfig, dataset: Dataset) -> Objective:
    if config.label_smoothing:
        raise UserError(
            f'label_smoothing={config.label_smoothing}: applies to classes, not to regression'
        )
    labels = dataset.splits['train'].labels  # none if a run is loaded without its examples
    centre = labels.mean(0, dtype='float64') if len(labels) else np.zeros(dataset.num_classes)
    return Regression(dataset.num_classes, tuple(centre.tolist()))


@OBJECTIVES.register('segmentation')
def _segmentation(config: TrainConfig, dataset: Dataset) -> Objective:
    if config.label_smoothing:
        raise UserError(f'label_smoothing={config.label_smoothing}: does not apply to masks')
    return Segmentation(dataset.num_classes)


def make_objective(config: TrainConfig, dataset: Dataset) -> Objective:
    """Returns the objective for the task of a data set.

    Raises:
        UserError: no objective is registered for the task, or it does not use a field of the
            configuration.
    """
    if config.class_weights and dataset.task != 'classification':
        raise UserError(
            f'class_weights={config.class_weights!r}: applies to classification, not to '
            f'{dataset.task}'
        )
    return OBJECTIVES.lookup(dataset.task)(config, dataset)

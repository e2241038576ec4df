"""Builds the training step that a run compiles, from shapes alone."""

from collections.abc import Sequence

import numpy as np

from cnn_jax import data, models
from cnn_jax.training import job, optimizer
from cnn_jax.training.config import TrainConfig


def make_job(config: TrainConfig, dataset: data.Dataset) -> job.Job:
    """Returns a job of 1000 steps on a data set; the caller replaces its devices."""
    schedule = optimizer.learning_rate(config, 1000, 0)
    return job.Job(
        config=config,
        dataset=dataset,
        **job.task_parts(config, dataset, job.make_net(config, dataset)),
        schedule=schedule,
        optimizer=optimizer.make_optimizer(config, schedule),
        devices=job.Devices.all(),
        steps_per_epoch=1000,
        total_steps=1000,
    )


def shapes_only(shape: Sequence[int], num_classes: int, model: str) -> data.Dataset:
    """Returns a data set of one black uint8 image for the task of a model, only for its shapes."""
    dense = model in models.names('segmentation')
    labels = np.zeros((1, *shape[:-1]), np.uint8) if dense else np.zeros(1, np.int32)
    split = data.Split(np.zeros((1, *shape), np.uint8), labels)
    names = tuple(f'class {i}' for i in range(num_classes))
    half = (0.5,) * shape[-1]
    task = 'segmentation' if dense else 'classification'
    return data.Dataset('shapes', 'image', {'train': split}, names, half, half, task=task)

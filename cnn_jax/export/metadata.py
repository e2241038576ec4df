"""Describes an inference function: inputs, outputs, classes, data set, metrics, versions."""

import json
import os
import pathlib
from typing import Any

import flax
import jax
import numpy as np

import cnn_jax
from cnn_jax.data import Dataset
from cnn_jax.export.card import seeds
from cnn_jax.models.base import AXES
from cnn_jax.training.config import RunConfig
from cnn_jax.training.workdir import DATASET, Workdir

FORMAT = 1

UNITS = {
    'image': 'pixel value',
    'audio': 'sample',
    'text': 'token id: index into dataset.meta.vocabulary',
    'array': 'as in the data set',
}
_MEANINGS = {
    'classification': ('probabilities', 'probability of each class; they add up to 1'),
    'multilabel': ('probabilities', 'probability that each label applies'),
    'regression': ('values', 'one value for each name in classes'),
    'segmentation': ('probabilities', 'probability of each class per pixel; they add up to 1'),
    'decode': ('images', 'pixels in [0, 1]'),
    'reconstruct': ('images', 'pixels in [0, 1]'),
    'encode': ('codes', 'the code of each image; for a vae, its mean'),
}


def example(dataset: Dataset) -> jax.ShapeDtypeStruct:
    """Returns the shape and dtype of one raw input of a data set."""
    return jax.ShapeDtypeStruct(dataset.input_shape, dataset.splits['train'].inputs.dtype)


def describe(
    path: str | os.PathLike,
    config: RunConfig,
    dataset: Dataset,
    example: jax.ShapeDtypeStruct,
    step: int,
    *,
    averaged: bool = False,
    part: str = '',
) -> dict[str, Any]:
    """Returns what somebody needs who uses the inference function of a run, JSON-serialisable.

    Args:
        path: the working folder.
        config: the configuration of the run.
        dataset: its data set; it may be without examples.
        example: shape and dtype of one raw input.
        step: the step of the checkpoint.
        averaged: whether the weights are the moving average.
        part: see `inference.load_inference`.

    Returns:
        name, task, model, step, averaged, part (for generation), input and output (name, shape,
        axes, dtype, units or meaning, range), preprocessing (inside the function and before it),
        classes, dataset (as `Dataset.describe` returns it), config, result (the content of
        `result.json`, or None), seeds (see `card.seeds`) and versions. `None` in a range stands
        for an unknown limit.
    """
    workdir = Workdir(path, config)
    name, meaning = _MEANINGS[part or dataset.task]
    codes = part == 'decode'
    return {
        'format': FORMAT,
        'name': f'{pathlib.Path(config.model.rpartition(":")[2]).name} on {dataset.name}',
        'task': 'generation' if part else dataset.task,
        'model': config.model,
        'step': step,
        'averaged': averaged,
        **({'part': part} if part else {}),
        'input': _codes(example) if codes else _input(dataset, example),
        'output': {'name': name, 'dtype': 'float32', 'meaning': meaning},
        'preprocessing': {} if codes else _preprocessing(dataset, example, standardized=not part),
        'classes': [] if part else list(dataset.class_names),
        'dataset': _description(workdir, dataset),
        'config': json.loads(config.to_json()),
        'result': workdir.result(),
        'seeds': seeds(path),
        'versions': {'cnn_jax': cnn_jax.__version__, 'jax': jax.__version__}
        | {'flax': flax.__version__},
    }


def _input(dataset: Dataset, example: jax.ShapeDtypeStruct) -> dict[str, Any]:
    axes = AXES.get(dataset.kind) or tuple(f'axis{i + 1}' for i in range(len(example.shape)))
    units = UNITS[dataset.kind]
    if rate := dataset.meta.get('sample_rate'):
        units += f', {rate} per second'
    limits: list[int | None] = [None, None]
    if dataset.kind == 'text':
        limits = [0, len(dataset.meta['vocabulary']) - 1]
    elif np.dtype(example.dtype).kind in 'iu':
        info = np.iinfo(example.dtype)
        limits = [int(info.min), int(info.max)]
    return {
        'name': 'inputs',
        'axes': ['batch', *axes],
        'shape': ['batch', *example.shape],
        'dtype': str(example.dtype),
        'units': units,
        'range': limits,
    }


def _codes(example: jax.ShapeDtypeStruct) -> dict[str, Any]:
    return {
        'name': 'codes',
        'axes': ['batch', 'latent'],
        'shape': ['batch', *example.shape],
        'dtype': str(example.dtype),
        'units': 'standard normal noise, independent in every dimension',
        'range': [None, None],
    }


def _preprocessing(
    dataset: Dataset, example: jax.ShapeDtypeStruct, *, standardized: bool
) -> dict[str, Any]:
    """Returns what happens to an input before the function, and inside of it."""
    scale = {'uint8': 255, 'int16': 32768}.get(str(example.dtype))
    inside = [] if scale is None else [f'divided by {scale}']
    if standardized and dataset.mean:
        inside += ['minus mean, divided by std, per channel']
    return {
        'before': _BEFORE[dataset.kind],
        'inside': ', then '.join(inside) or 'none',
        **({'mean': list(dataset.mean), 'std': list(dataset.std)} if standardized else {}),
    }


_BEFORE = {
    'image': 'cropped to the centred square and resized, bilinear with antialiasing',
    'audio': 'the first samples; a shorter recording is followed by zeros',
    'text': 'tokenised as dataset.meta says; padded with token 0; unknown words are token 1',
    'array': 'none',
}


def _description(workdir: Workdir, dataset: Dataset) -> dict[str, Any]:
    try:
        return json.loads((workdir.path / DATASET).read_text())
    except FileNotFoundError:  # a run of an early version; its data set has been loaded
        return dataset.describe()

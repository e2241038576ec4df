"""A tiny model and data set for the training tests. This file contains no tests."""

import jax
import numpy as np
import optax
from flax import nnx

from cnn_jax.data import Dataset, Split
from cnn_jax.models.base import LayerFactory
from cnn_jax.training.devices import Devices
from cnn_jax.training.objectives import Classification
from cnn_jax.training.parallel import WAYS
from cnn_jax.training.state import FunctionalModel, init_state
from cnn_jax.training.step import make_step, several_steps

CLASSES = 3


class Tiny(nnx.Module):
    """A convolution, a mean and a dense layer, with optional batch norm and dropout."""

    def __init__(self, rngs, *, norm=False, norm_group=0, dropout=0.0):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        make = LayerFactory(rngs, norm_group=norm_group)
        self.norm = make.batch_norm(4, momentum=0.99) if norm else None
        self.drop = nnx.Dropout(dropout, rngs=rngs) if dropout else None
        self.out = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.conv(x)
        x = self.norm(x) if self.norm else x
        x = nnx.relu(x).mean((1, 2))
        return self.out(self.drop(x) if self.drop else x)


def tiny_dataset(n=48, seed=0):
    """Images whose class is the position of their bright rows."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, CLASSES, n).astype(np.int32)
    images = chance.integers(0, 90, (n, 5, 5, 1))
    for row, label in enumerate(labels):
        images[row, label : label + 3] += 120
    split = Split(images.astype(np.uint8), labels)
    splits = {'train': split, 'test': split.take(slice(0, 20))}
    return Dataset('tiny', 'image', splits, ('a', 'b', 'c'), (0.4,), (0.3,))


def run(
    steps=4,
    batch=16,
    *,
    model=Tiny,
    optimizer=None,
    devices=None,
    parallel='jit',
    steps_per_call=1,
    resident=True,
    counts=None,
    label_smoothing=0.0,
    **options,
):
    """Trains for a few steps; returns the state and {metric: one value per step}."""
    dataset, devices = tiny_dataset(), Devices.all(devices)
    way = WAYS[parallel](devices)
    optimizer = optimizer or optax.sgd(0.1, 0.9)
    net = FunctionalModel(model)
    step = make_step(
        net,
        optimizer,
        lambda _: 0.1,
        Classification(CLASSES, label_smoothing),
        normalize=dataset.normalize,
        axis_name=way.axis_name,
        **options,
    )
    call = way.compile(several_steps(step, steps_per_call, resident), resident)
    init = jax.jit(
        lambda: init_state(net, optimizer, 0, ema='ema' in options),
        out_shardings=devices.replicated,
    )
    state = init.lower().compile(compiler_options={'xla_backend_optimization_level': 0})()
    split = dataset.splits['train']
    columns = {'inputs': split.inputs, 'labels': split.labels}
    history, first = [], 0
    everything = np.arange(steps * batch).reshape(-1, batch) % len(split)
    everything = everything.astype(np.int32)
    for count in counts or [steps_per_call] * (steps // steps_per_call):
        if resident:
            arguments = devices.put(columns), way.place(everything)
        else:
            rows = everything[first : first + steps_per_call]
            batches = {k: way.place(v[rows]) for k, v in columns.items()}
            arguments = batches, None
        state, metrics = call(state, *arguments, devices.put(np.int32(count)))
        first += count
        history.append({name: np.asarray(value)[:count] for name, value in metrics.items()})
    return state, {name: np.concatenate([h[name] for h in history]) for name in history[0]}

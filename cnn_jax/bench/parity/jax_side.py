"""Runs the JAX side of the comparison: `python -m cnn_jax.bench.parity.jax_side FOLDER`.

This is the counterpart of `torch_side` and writes the same results to FOLDER/jax.npz. It runs in a
separate process so that speed and memory of both sides are measured in the same way.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax import models
from cnn_jax.bench.parity.measure import mean_iou, measure
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.optimizer import make_optimizer
from cnn_jax.training.state import FunctionalModel


def make_net(task, dtype) -> FunctionalModel:
    """Returns the model of a task, without parameters."""
    return FunctionalModel(
        lambda rngs: models.create(
            task['config']['model'],
            input_shape=tuple(task['input_shape']),
            num_classes=task['num_classes'],
            rngs=rngs,
            dtype=jnp.dtype(dtype),
            implementation=task['config']['implementation'] or None,
            **task['options'],
        )
    )


def raw_logits(model, x):
    """Returns the output of the last layer, before the model rounds it to float32."""
    if hasattr(model, 'encoder'):
        return model.decoder(model.encoder(x))
    if hasattr(model, 'layers'):
        return model.layers(x)
    maps = {}
    model(x, intermediates=maps)
    return maps['logits']


class Run:
    """One training from one set of initial weights."""

    def __init__(self, task, data, weights, dtype):
        self.task, self.data, self.dtype = task, data, dtype
        self.net = make_net(task, dtype)
        cast = lambda names: {n: jnp.asarray(weights[n], dtype) for n in names}  # noqa: E731
        self.params, self.model_state = cast(self.net.params), cast(self.net.model_state)
        rates = jnp.asarray(task['learning_rates'], dtype)
        self.optimizer = make_optimizer(TrainConfig(**task['config']), lambda step: rates[step])
        self.memory = self.optimizer.init(self.params)
        self._step = jax.jit(self._update, donate_argnums=(0, 1, 2))
        self._gradient = jax.jit(jax.grad(self.loss, has_aux=True))

    def gradient(self, rows, inputs=None):
        batch = self.batch(rows, inputs)
        gradient, (logits, _) = self._gradient(self.params, self.model_state, *batch)
        return np.asarray(logits), jax.tree.map(np.asarray, gradient)

    def parameters(self):
        return jax.tree.map(np.asarray, self.params)

    def loss(self, params, model_state, x, y):
        model = self.net.merge(params, model_state)
        model.train()
        logits = raw_logits(model, x)
        if self.task['loss'] == 'pixels':
            loss = optax.sigmoid_binary_cross_entropy(logits, y).mean()
        else:
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss, (logits, {name: _variable(model, name) for name in model_state})

    def _update(self, params, model_state, memory, x, y):
        (loss, (_, model_state)), gradient = jax.value_and_grad(self.loss, has_aux=True)(
            params, model_state, x, y
        )
        updates, memory = self.optimizer.update(gradient, memory, params)
        return optax.apply_updates(params, updates), model_state, memory, loss

    def batch(self, rows, inputs=None, split='train'):
        """Returns the arguments of a step; `inputs`, if given, replace those of the data."""
        x = self.data[f'{split}_inputs'][rows] if inputs is None else inputs
        x = x if self.task['kind'] == 'text' else x.astype(self.dtype)
        return x, x if self.task['loss'] == 'pixels' else self.data[f'{split}_labels'][rows]

    def step(self, rows, inputs=None):
        self.params, self.model_state, self.memory, loss = self._step(
            self.params, self.model_state, self.memory, *self.batch(rows, inputs)
        )
        return float(loss)

    def test(self):
        """Returns the test accuracy, the test loss for pixels, or the mean IoU for masks."""
        predict = jax.jit(functools.partial(_predict, self.net))
        total, size, predicted = 0.0, len(self.data['test_inputs']), []
        for start in range(0, size, 250):
            x, y = self.batch(slice(start, start + 250), split='test')
            logits = predict(self.params, self.model_state, x)
            if self.task['loss'] == 'pixels':
                total += float(optax.sigmoid_binary_cross_entropy(logits, y).mean()) * len(y)
            elif y.ndim > 1:
                predicted.append(np.asarray(logits.argmax(-1)))
            else:
                total += float((logits.argmax(1) == y).sum())
        if predicted:
            masks = self.data['test_labels']
            return mean_iou(masks, np.concatenate(predicted), self.task['num_classes'])
        return total / size


def _predict(net, params, model_state, x):
    model = net.merge(params, model_state)
    model.eval()
    return raw_logits(model, x)


def _variable(model, name):
    """Returns the array of that name: 'layers/bn1/mean' is model.layers.bn1.mean."""
    return functools.reduce(getattr, name.split('/'), model)[...]


if __name__ == '__main__':
    jax.config.update('jax_enable_x64', True)
    measure(sys.argv[1], 'jax', Run)

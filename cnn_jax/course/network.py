"""Exercises of chapter 5, a network and its training."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike

from cnn_jax import nn
from cnn_jax.course.arrays import Array, whole_numbers
from cnn_jax.course.exercise import Case, Exercise
from cnn_jax.training.early_stopping import Progress


def _layers(rngs: nnx.Rngs, **changes: Any) -> nn.Layers:
    """Returns the network, with layers replaced by name; None leaves one out."""
    layers: dict[str, Any] = {
        'conv1': nn.Conv(1, 16, (3, 3), rngs=rngs),
        'relu1': nnx.relu,
        'pool1': nn.MaxPool((2, 2)),
        'conv2': nn.Conv(16, 32, (3, 3), rngs=rngs),
        'relu2': nnx.relu,
        'pool2': nn.MaxPool((2, 2)),
        'flatten': nn.Flatten(),
        'dense': nnx.Linear(2 * 2 * 32, 64, rngs=rngs),
        'relu3': nnx.relu,
        'logits': nnx.Linear(64, 10, rngs=rngs),
    } | changes
    return nn.Layers({name: layer for name, layer in layers.items() if layer is not None})


def _network(rngs: nnx.Rngs) -> nn.Layers:
    return _layers(rngs)


def _behaviour(function: Callable, case: Case) -> Any:
    """Returns the number of parameters, and the logits with parameters that depend on shapes."""
    network = function(*case)
    if network is None:
        return None
    params = nnx.state(network, nnx.Param)
    known = jax.tree.map(
        lambda p: jnp.cos(1.0 + jnp.arange(p.size)).reshape(p.shape) / np.sqrt(p.shape[-1]), params
    )
    nnx.update(network, known)
    return sum(p.size for p in jax.tree.leaves(params)), network(whole_numbers(3, 8, 8, 1))


network = Exercise(
    name='network',
    right=_network,
    cases=lambda: [(nnx.Rngs(0),)],
    verified='13,706 parameters, and the logits of three pictures.',
    shape='One logit per example and class.',
    observe=_behaviour,
    wrong=(
        (
            lambda rngs: _layers(rngs, relu1=None, relu2=None, relu3=None),
            'there is no ReLU. Convolutions and dense layers are linear, and so is a chain of '
            'them: without a nonlinear function in between, one layer could do the same.',
        ),
        (
            lambda rngs: _layers(rngs, relu3=None),
            'no ReLU follows the first dense layer, so the two dense layers act as one.',
        ),
        (
            lambda rngs: _layers(rngs, relu1=None, relu2=None),
            'no ReLU follows the convolutions.',
        ),
        (
            lambda rngs: _layers(rngs, relu4=nnx.relu),
            'a ReLU follows the last layer. Logits may be negative: leave it out.',
        ),
        (
            lambda rngs: _layers(rngs, softmax=nnx.softmax),
            'a softmax follows the last layer. The cross-entropy contains it, so return the '
            'logits themselves.',
        ),
        (
            lambda rngs: _layers(rngs, pool1=nn.AvgPool((2, 2)), pool2=nn.AvgPool((2, 2))),
            'the pools take the mean; wanted is max pooling, nn.MaxPool.',
        ),
        (
            lambda rngs: _layers(
                rngs,
                conv1=nn.Conv(1, 16, (3, 3), use_bias=False, rngs=rngs),
                conv2=nn.Conv(16, 32, (3, 3), use_bias=False, rngs=rngs),
            ),
            'the convolutions have no bias; leave use_bias at its default.',
        ),
        (
            lambda rngs: _layers(rngs, pool2=None, dense=nnx.Linear(4 * 4 * 32, 64, rngs=rngs)),
            'the second pool is missing, so the first dense layer has 4 times as many inputs.',
        ),
        (
            lambda rngs: _layers(
                rngs,
                conv1=nn.Conv(1, 32, (3, 3), rngs=rngs),
                conv2=nn.Conv(32, 16, (3, 3), rngs=rngs),
                dense=nnx.Linear(2 * 2 * 16, 64, rngs=rngs),
            ),
            'the two convolutions are exchanged: 16 feature maps first, then 32.',
        ),
    ),
)


def _cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), labels).mean()


def _of_probabilities(use: Callable) -> Callable:
    """Returns a loss from use(the probability of each example's class), averaged."""

    def loss(logits: Array, labels: Array) -> jax.Array:
        probabilities = jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True)
        return use(probabilities[jnp.arange(len(labels)), labels]).mean()

    return loss


def _with_gradient(function: Callable, case: Case) -> Any:
    logits, labels = case
    if (value := function(logits, labels)) is None:
        return None
    return value, jax.grad(lambda logits: function(logits, labels))(jnp.asarray(logits))


cross_entropy = Exercise(
    name='cross_entropy',
    right=_cross_entropy,
    cases=lambda: [
        (np.array([[1, 2, 0], [0, -1, 3]], np.float32), np.array([0, 2])),
        (whole_numbers(4, 5, seed=1), np.array([4, 0, 2, 2])),
        (np.array([[1000, 0], [-1000, 0]], np.float32), np.array([1, 1])),
    ],
    verified='the loss and its gradient, with logits of 1000, too.',
    shape='One number, the mean over the examples; its gradient has the shape of the logits.',
    observe=_with_gradient,
    wrong=(
        (
            _of_probabilities(lambda p: -jnp.log(p)),
            'right for small logits, but exp(1000) is infinite. Subtract the largest logit of '
            'each example first, or use jax.nn.log_softmax, which does.',
        ),
        (
            _of_probabilities(lambda p: -p),
            'this is minus the probability of the class: take its logarithm.',
        ),
        (
            lambda logits, labels: -_cross_entropy(logits, labels),
            'the sign: the logarithm of a probability is negative, and the loss is minus that.',
        ),
        (
            lambda logits, labels: _cross_entropy(logits, labels) * len(labels),
            'this is the sum over the examples; take the mean, so that the loss and the step do '
            'not grow with the batch.',
        ),
        (
            lambda logits, labels: _cross_entropy(logits, labels) / logits.shape[-1],
            'the mean is over examples and classes. Only one class per example counts: divide by '
            'the number of examples.',
        ),
        (
            lambda logits, labels: _cross_entropy(jax.nn.softmax(logits), labels),
            'the softmax is applied twice.',
        ),
        (
            lambda logits, labels: _cross_entropy(logits, logits.argmax(-1)),
            'this is the loss of the class with the largest logit, not of the label.',
        ),
        (
            lambda logits, labels: -logits[jnp.arange(len(labels)), labels].mean(),
            'this is minus the logit of the label. Without the softmax nothing limits it, and '
            'the loss falls forever.',
        ),
        (
            lambda logits, labels: _cross_entropy(logits, labels) / jnp.log(2),
            'the logarithm has the base 2; the natural one is customary.',
        ),
    ),
)


def _accuracy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    return jnp.mean(jnp.argmax(logits, -1) == labels)


accuracy = Exercise(
    name='accuracy',
    right=_accuracy,
    cases=lambda: [
        (np.array([[1, 2, 0], [0, -1, 3], [-1, -3, -2]], np.float32), np.array([0, 2, 0])),
        (np.array([[3, 1], [2, 9], [4, 5], [0, -8]], np.float32), np.array([1, 1, 1, 0])),
        (np.array([[-3, -1], [-2, -9], [-4, -5]], np.float32), np.array([1, 0, 1])),
    ],
    verified='the fraction of examples whose largest logit is that of the label.',
    shape='One number for all examples.',
    wrong=(
        (
            lambda logits, labels: (jnp.argmax(logits, -1) == labels).sum(),
            'this is the number of right answers; divide by the number of examples.',
        ),
        (
            lambda logits, labels: 100 * _accuracy(logits, labels),
            'this is in percent; wanted is the fraction.',
        ),
        (
            lambda logits, labels: 1 - _accuracy(logits, labels),
            'this is the error, 1 - accuracy.',
        ),
        (
            lambda logits, labels: jnp.mean(jnp.argmin(logits, -1) == labels),
            'this takes the smallest logit.',
        ),
        (
            lambda logits, labels: _accuracy(jnp.abs(logits), labels),
            'a negative logit counts by its size. It is the largest, not the largest absolute '
            'value, that wins.',
        ),
        (
            lambda logits, labels: (jnp.argmax(logits, -1) == labels).astype(np.float32),
            'this is one answer per example: take the mean.',
        ),
        (
            lambda logits, labels: (jnp.argmax(logits, -1) == labels).sum() / logits.size,
            'the divisor is the number of logits; it is the number of examples.',
        ),
        (
            lambda logits, labels: jnp.mean(
                jax.nn.softmax(logits)[jnp.arange(len(labels)), labels]
            ),
            'this is the mean probability of the labels. Count the examples where the largest '
            'logit is that of the label.',
        ),
    ),
)


def _train_step(model: nnx.Module, optimizer: nnx.Optimizer, x: Array, labels: Array) -> jax.Array:
    return _step(_cross_entropy)(model, optimizer, x, labels)


def _step(loss: Callable, sign: int = 1) -> Callable:
    """Returns a step that changes the model along the gradient of loss(logits, labels)."""

    def step(model, optimizer, x, labels):
        value, gradient = nnx.value_and_grad(lambda model: loss(model(x), labels))(model)
        optimizer.update(model, jax.tree.map(lambda g: sign * g, gradient))
        return value

    return step


def _without_update(model, optimizer, x, labels):
    return _cross_entropy(model(x), labels)


def _loss_afterwards(model, optimizer, x, labels):
    _train_step(model, optimizer, x, labels)
    return _cross_entropy(model(x), labels)


def _twice(model, optimizer, x, labels):
    value = _train_step(model, optimizer, x, labels)
    _train_step(model, optimizer, x, labels)
    return value


def _new_optimizer(model, optimizer, x, labels):
    return _train_step(model, nnx.Optimizer(model, optimizer.tx, wrt=nnx.Param), x, labels)


def _three_steps(function: Callable, case: Case) -> Any:
    losses = [function(*case) for _ in range(3)]
    if losses[0] is None:
        return None
    model = case[0]
    return jnp.stack(losses), model.kernel[...], model.bias[...]


def _step_cases() -> list[Case]:
    x, labels = whole_numbers(5, 4), np.array([0, 2, 1, 1, 0])
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    optimizers = (optax.sgd(0.1), optax.sgd(0.1, momentum=0.9))
    return [(model, nnx.Optimizer(model, tx, wrt=nnx.Param), x, labels) for tx in optimizers]


train_step = Exercise(
    name='train_step',
    right=_train_step,
    cases=_step_cases,
    verified='the losses and parameters of three steps, with and without momentum.',
    shape='The step returns the loss, one number.',
    observe=_three_steps,
    wrong=(
        (
            _step(_cross_entropy, sign=-1),
            'the step goes up: it adds the gradient. optimizer.update(model, gradient) subtracts '
            'it already.',
        ),
        (
            _without_update,
            'the parameters stay as they were: call optimizer.update(model, gradient).',
        ),
        (
            _loss_afterwards,
            'the loss is computed once more, after the update. Return the one that '
            'value_and_grad gave, which costs nothing.',
        ),
        (
            _step(lambda logits, labels: _cross_entropy(logits, labels) * len(labels)),
            'the loss is the sum over the batch; use the mean.',
        ),
        (
            _step(lambda logits, labels: _cross_entropy(jax.nn.softmax(logits), labels)),
            'the softmax is applied twice: the cross-entropy takes logits.',
        ),
        (
            _step(lambda logits, labels: 1 - _accuracy(logits, labels)),
            'this is the gradient of the error, which is zero: a small change of the weights '
            'changes no answer. That is why the loss is the cross-entropy.',
        ),
        (
            _twice,
            'optimizer.update is called twice.',
        ),
        (
            _new_optimizer,
            'each step makes a new optimiser, so the momentum starts from zero. Use the one that '
            'is passed.',
        ),
    ),
)


def _early_stopping(losses: Sequence[float], patience: int) -> tuple[int, int]:
    progress = Progress()
    for i, loss in enumerate(losses):
        progress = progress.after(i, -loss)
        if progress.since == patience:
            return i, progress.best_step
    return len(losses) - 1, progress.best_step


def _stopped(better: Callable[[Array, int], bool]) -> Callable:
    """Returns early stopping in which better(losses so far, best so far) makes a new best."""

    def stop(losses: Sequence[float], patience: int) -> tuple[int, int]:
        best, since = 0, 0
        for i in range(1, len(losses)):
            if better(np.asarray(losses[: i + 1]), best):
                best, since = i, 0
            else:
                since += 1
            if since == patience:
                return i, best
        return len(losses) - 1, best

    return stop


def _never_reset(losses: Sequence[float], patience: int) -> tuple[int, int]:
    best = failed = 0
    for i in range(1, len(losses)):
        if losses[i] < losses[best]:
            best = i
        else:
            failed += 1
        if failed == patience:
            return i, best
    return len(losses) - 1, best


early_stopping = Exercise(
    name='early_stopping',
    right=_early_stopping,
    cases=lambda: [
        ((2.0, 1.0, 1.5, 1.25, 1.75, 1.5, 0.5), 3),
        ((3.0, 2.0, 2.5, 1.0, 1.5, 1.25, 1.0, 0.5), 3),
        ((4.0, 4.5, 3.0, 3.5, 3.25, 2.0, 2.5, 2.25), 3),
        ((2.0, 1.0, 1.5, 0.5), 1),
        ((1.0, 2.0, 3.0), 5),
    ],
    verified='where training stops and which weights to keep, for five curves.',
    shape='Two numbers: where training stops, and where the loss was smallest until then.',
    wrong=(
        (
            lambda losses, patience: (_early_stopping(losses, patience)[0],) * 2,
            'the last evaluation is returned as the best. The weights to keep are those of the '
            'smallest loss, `patience` evaluations earlier.',
        ),
        (
            lambda losses, patience: (
                _early_stopping(losses, patience)[0],
                int(np.argmin(losses)),
            ),
            'the smallest loss is searched in all evaluations, also in those after the stop, '
            'which never took place.',
        ),
        (
            lambda losses, patience: (len(losses) - 1, int(np.argmin(losses))),
            'training never stops: leave the loop after `patience` evaluations without a new '
            'smallest loss.',
        ),
        (
            lambda losses, patience: _early_stopping(losses, 1),
            'training stops at the first loss that is not the smallest. It goes on for '
            '`patience` evaluations, since losses are noisy.',
        ),
        (
            _never_reset,
            'the count goes on after a new smallest loss: set it back to zero.',
        ),
        (
            _stopped(lambda losses, best: losses[-1] < losses[-2]),
            'a loss counts as an improvement if it is smaller than the one before. Compare with '
            'the smallest so far.',
        ),
        (
            _stopped(lambda losses, best: losses[-1] <= losses[best]),
            'a loss that equals the smallest counts as an improvement. Only a smaller one does.',
        ),
        (
            lambda losses, patience: _early_stopping(losses, patience + 1),
            'training stops one evaluation too late: after `patience` of them without a new '
            'smallest loss.',
        ),
        (
            lambda losses, patience: _early_stopping([-loss for loss in losses], patience),
            'this keeps the largest loss.',
        ),
    ),
)

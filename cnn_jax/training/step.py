"""Builds a training step as a pure function, and runs several steps in one call."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax.training.objectives import Objective
from cnn_jax.training.optimizer import Schedule
from cnn_jax.training.state import Arrays, FunctionalModel, TrainState

Batch = dict[str, jax.Array]  # raw inputs (N, ...) of the data set, labels (N, ...)
Step = Callable[[TrainState, Batch], tuple[TrainState, Arrays]]

# Under `remat`, the backward pass recomputes everything except the results of these primitives.
_KEPT = ('conv_general_dilated', 'dot_general')


def make_step(
    net: FunctionalModel,
    optimizer: optax.GradientTransformation,
    schedule: Schedule | None,
    objective: Objective,
    *,
    normalize: Callable[[jax.Array], jax.Array] = lambda inputs: inputs,
    augment: Callable[..., tuple[jax.Array, jax.Array]] | None = None,
    mixed_targets: bool = False,
    place: Callable[[Batch], Batch] = lambda batch: batch,
    ema: float = 0.0,
    ema_warmup: bool = False,
    accumulate: int = 1,
    unroll: bool = False,
    remat: bool = False,
    frozen: Collection[str] = (),
    seed: int = 0,
    axis_name: str | None = None,
) -> Step:
    """Returns the step function: (state, batch) -> (state, metrics).

    All random numbers (dropout, augmentation) come from keys that depend only on the seed and the
    step number, and on the device if `axis_name` is set.

    Args:
        net: the model.
        optimizer: the optimiser, applied to the parameters by name.
        schedule: step -> learning rate; used only for the metrics, since the optimiser has its own.
            None means that the learning rate is not known.
        objective: the loss and the metrics of a batch.
        normalize: maps raw inputs of the data set to inputs of the model.
        augment: (key, inputs, targets) -> (inputs, targets), see `augment.make_augment`.
        mixed_targets: whether `augment` mixes targets and therefore needs them as distributions.
        place: constrains the placement of the inputs, labels and targets of the model.
        ema: decay of the moving average in state.ema; 0 disables it.
        ema_warmup: whether to limit the decay to (1 + s) / (10 + s) at step s (from 0).
        accumulate: number of equal parts into which the batch is split. The parts are computed one
            after another and their gradients averaged, which gives the gradient of the whole
            batch. Batch norm computes its statistics per part.
        unroll: whether to unroll the loop over the parts (XLA's CPU backend runs loops on one
            thread).
        remat: whether to keep only the results of convolutions and matrix products for the
            backward pass and recompute everything else.
        frozen: names of parameters that the optimiser leaves unchanged; their gradients are not
            computed, and are zero.
        seed: seed of all random numbers.
        axis_name: name of the mapped axis if the function runs once per device (pmap). Losses and
            gradients are then averaged over this axis. Each device computes its own batch
            statistics, and the updated running statistics are averaged after the step.

    Returns:
        A function whose metrics are loss (for the training targets), those of
        `Objective.step_metrics` (for the labels), grad_norm, learning_rate, and leaf_norms (L,),
        the gradient norm of every parameter sorted by name.
    """
    forward = jax.checkpoint(net.train, policy=_kept) if remat else net.train

    def loss_and_more(params: Arrays, model_state: Arrays, key: jax.Array, part: Batch):
        params = {n: jax.lax.stop_gradient(p) if n in frozen else p for n, p in params.items()}
        outputs, model_state = forward(params, model_state, key, part['inputs'])
        loss = objective.loss(outputs, part['targets'])
        measured = objective.step_metrics(outputs, part['labels'])
        return loss, (model_state, {'loss': loss} | measured)

    gradient = jax.value_and_grad(loss_and_more, has_aux=True)

    def whole(params: Arrays, model_state: Arrays, key: jax.Array, batch: Batch):
        """Returns metrics, model state and gradient of a batch, computed in parts."""
        if accumulate == 1:
            (_, (model_state, measured)), grads = gradient(params, model_state, key, batch)
            return measured, model_state, grads
        # Every part takes rows from every device's shard, so that no row moves between devices.
        split = lambda a: a.reshape(-1, accumulate, *a.shape[1:]).swapaxes(0, 1)  # noqa: E731
        parts = jax.tree.map(split, batch)

        def add(carry, numbered):
            index, part = numbered
            model_state, sums = carry
            part_key = jax.random.fold_in(key, index)
            (_, (model_state, measured)), grads = gradient(params, model_state, part_key, part)
            return (model_state, jax.tree.map(jnp.add, sums, (measured, grads))), None

        first = jax.tree.map(lambda a: a[0], parts)
        shapes = jax.eval_shape(loss_and_more, params, model_state, key, first)[1][1]
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        start = model_state, (zeros, jax.tree.map(jnp.zeros_like, params))
        (model_state, sums), _ = jax.lax.scan(
            add, start, (jnp.arange(accumulate), parts), unroll=accumulate if unroll else 1
        )
        measured, grads = jax.tree.map(lambda a: a / accumulate, sums)
        return measured, model_state, grads

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Arrays]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if axis_name:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        labels = batch['labels']
        inputs = normalize(batch['inputs'])
        targets = objective.targets(labels, mixed=mixed_targets)
        if augment:
            inputs, targets = augment(jax.random.fold_in(key, 1), inputs, targets)
            labels = targets if objective.dense else labels
        parts = place({'inputs': inputs, 'labels': labels, 'targets': targets})
        measured, model_state, grads = whole(
            state.params, state.model_state, jax.random.fold_in(key, 2), parts
        )
        if axis_name:
            measured, model_state, grads = jax.lax.pmean((measured, model_state, grads), axis_name)
        updates, opt = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        leaf_norms = jnp.stack([jnp.linalg.norm(grads[name].ravel()) for name in sorted(grads)])
        metrics = {
            **measured,
            'grad_norm': jnp.linalg.norm(leaf_norms),
            'leaf_norms': leaf_norms,
        }
        if schedule is not None:
            metrics['learning_rate'] = jnp.asarray(schedule(state.step), jnp.float32)
        average = None
        if ema:
            decay = warm_decay(ema, state.step) if ema_warmup else ema
            average = optax.incremental_update(params, state.ema, 1 - decay)
        return TrainState(state.step + 1, params, model_state, opt, average), metrics

    return step


def warm_decay(decay: float, step: jax.Array) -> jax.Array:
    """Returns the decay of a moving average that at first follows faster, for step 0, 1, ..."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def _kept(primitive: Any, *_, **__) -> bool:
    return primitive.name in _KEPT


def several_steps(step: Step, steps_per_call: int, resident: bool):
    """Returns (state, data, rows, count) -> (state, metrics), which does `count` steps.

    Args:
        step: the function for one step.
        steps_per_call: K, the maximum number of steps per call. With 1 there is no loop around the
            step: XLA's CPU backend runs the body of a loop on one thread, so loops are only useful
            on accelerators.
        resident: whether `data` is the whole training set on the device. If so, `rows` (S, N) int32
            holds the indices of the examples: step s uses row s % S, and no data are transferred
            for a step. Otherwise `data` holds the batches (K, N, ...) and `rows` is None.

    Returns:
        A function whose metrics have a leading axis K, of which the first `count` entries are
        filled. `count` is an argument of one compiled program, so a step gives bit-identical
        results in whichever call it runs.
    """

    def on_batch(state, data, rows, i):
        take = rows[state.step % len(rows)] if resident else i
        return step(state, {name: column[take] for name, column in data.items()})

    def one(state, data, rows, count):
        del count
        state, metrics = on_batch(state, data, rows, 0)
        return state, jax.tree.map(lambda a: a[None], metrics)

    def loop(state, data, rows, count):
        shapes = jax.eval_shape(lambda: on_batch(state, data, rows, 0)[1])
        history = jax.tree.map(lambda s: jnp.zeros((steps_per_call, *s.shape), s.dtype), shapes)

        def body(i, carry):
            state, history = carry
            state, metrics = on_batch(state, data, rows, i)
            return state, jax.tree.map(lambda h, m: h.at[i].set(m), history, metrics)

        return jax.lax.fori_loop(0, count, body, (state, history))

    return one if steps_per_call == 1 else loop

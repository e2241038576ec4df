"""Computes exact metrics over whole splits, during training and at its end."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data import Dataset, Split
from cnn_jax.data.loader import evaluation_batches
from cnn_jax.training.devices import Devices
from cnn_jax.training.objectives import Objective
from cnn_jax.training.state import Arrays, FunctionalModel, TrainState


class SplitEvaluator:
    """Evaluates parameters on one split, as often as needed, with one compilation.

    Args:
        net: the model.
        objective: what is summed over the examples.
        dataset: the data set, which normalises the inputs.
        split: the examples to evaluate.
        devices: the devices over which each batch is sharded.
        batch_size: number of examples per batch.
        flips: whether to average the logits of each image (H, W, C) and of its mirror image.
    """

    def __init__(
        self,
        net: FunctionalModel,
        objective: Objective,
        dataset: Dataset,
        split: Split,
        devices: Devices,
        batch_size: int,
        flips=False,
    ):
        self._split, self._devices, self._batch_size = split, devices, batch_size

        def add_batch(sums, params, model_state, batch):
            inputs = dataset.normalize(batch['inputs'])
            logits = net.predict(params, model_state, inputs)
            if flips:
                mirrored = net.predict(params, model_state, inputs[:, :, ::-1])
                logits = (logits + (mirrored[:, :, ::-1] if objective.dense else mirrored)) / 2
            new = objective.sums(logits, batch['labels'], batch['weights'])
            return jax.tree.map(jnp.add, sums, new)

        self._add_batch = jax.jit(add_batch, donate_argnums=0, out_shardings=devices.replicated)
        row = lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype)  # noqa: E731
        shapes = jax.eval_shape(
            lambda params, model_state, x, labels, weights: objective.sums(
                net.predict(params, model_state, dataset.normalize(x)), labels, weights
            ),
            net.params,
            net.model_state,
            row(split.inputs),
            row(split.labels),
            jax.ShapeDtypeStruct((1,), jnp.float32),
        )
        self._zero = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)

    def __call__(self, params: Arrays, model_state: Arrays) -> dict[str, Any]:
        """Returns `Objective.sums` of the whole split."""
        sums = self._devices.put(self._zero)
        for batch in evaluation_batches(self._split, self._batch_size):
            sums = self._add_batch(sums, params, model_state, self._devices.put_rows(batch))
        return jax.device_get(sums)


class Evaluation(NamedTuple):
    """The result of an evaluation during training.

    Attributes:
        metrics: the metrics; their names include the split, such as 'test_loss'.
        line: a one-line text of the metrics for the terminal.
        score: the value that ranks checkpoints (higher is better), or None for no ranking.
    """

    metrics: dict[str, float]
    line: str
    score: float | None


NOT_EVALUATED = Evaluation({}, '', None)


class Evaluator(Protocol):
    """Evaluates the states of one run."""

    def evaluate(self, state: TrainState, step: int, split: str) -> Evaluation:
        """Evaluates `state` on one split during training, after `step` steps."""

    def final(self, state: TrainState, step: int) -> dict[str, Any]:
        """Evaluates `state` after training and returns the content of `result.json`."""


class ObjectiveEvaluator:
    """Computes the metrics of an objective on every split except `train`.

    The metrics of averaged weights, if there are any, are computed as well.
    """

    def __init__(
        self,
        net: FunctionalModel,
        objective: Objective,
        dataset: Dataset,
        devices: Devices,
        batch_size: int,
    ):
        self._objective = objective
        self._evaluators = {
            name: SplitEvaluator(net, objective, dataset, split, devices, batch_size)
            for name, split in dataset.splits.items()
            if name != 'train'
        }

    def evaluate(self, state: TrainState, step: int, split: str) -> Evaluation:
        del step
        objective, evaluator = self._objective, self._evaluators[split]
        found = objective.summary(evaluator(state.params, state.model_state))
        metrics = {f'{split}_{name}': value for name, value in found.items()}
        best = objective.metric
        line = f'{split} loss {found["loss"]:.4f}'
        if best != 'loss':
            line += f'  {best.replace("_", " ")} {found[best]:.4f}'
        score = objective.score(found)
        if state.ema is not None:
            average = objective.summary(evaluator(state.ema, state.model_state))
            metrics |= {f'{split}_ema_{name}': value for name, value in average.items()}
            line += f' ({average[best]:.4f} averaged)'
            score = objective.score(average)
        return Evaluation(metrics, line, score)

    def final(self, state: TrainState, step: int) -> dict[str, Any]:
        objective = self._objective
        result: dict[str, Any] = {'step': step, 'metric': objective.metric}
        for name, evaluator in self._evaluators.items():
            for prefix, key in (('', 'params'), ('ema_', 'ema')):
                params = getattr(state, key)
                if params is not None:
                    sums = evaluator(params, state.model_state)
                    result[prefix + name] = objective.summary(sums) | objective.details(sums)
        return result

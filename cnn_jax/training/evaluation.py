"""Computes exact metrics over whole splits, during training and at its end."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data import Dataset, Split
from cnn_jax.data.loader import evaluation_batches
from cnn_jax.training.devices import Devices
from cnn_jax.training.objectives import Objective
from cnn_jax.training.state import Arrays, FunctionalModel, TrainState


class BatchSums:
    """The sums of an objective over one batch after another; pure functions.

    Args:
        net: the model.
        objective: what is summed over the examples.
        dataset: the data set, which normalises the inputs.
        flips: whether to average the logits of each image (H, W, C) and of its mirror image.
    """

    def __init__(
        self, net: FunctionalModel, objective: Objective, dataset: Dataset, *, flips: bool = False
    ):
        self._net, self._objective, self._dataset, self._flips = net, objective, dataset, flips

    def zero(self, split: Split) -> dict[str, np.ndarray]:
        """Returns the sums before the first batch of a split."""
        row = lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype)  # noqa: E731
        batch = {'inputs': row(split.inputs), 'labels': row(split.labels)}
        batch['weights'] = jax.ShapeDtypeStruct((1,), jnp.float32)
        shapes = jax.eval_shape(self._of, self._net.params, self._net.model_state, batch)
        return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)

    def add(self, sums: Arrays, params: Arrays, model_state: Arrays, batch: Arrays) -> Arrays:
        """Returns `sums` with those of a batch added; traceable."""
        return jax.tree.map(jnp.add, sums, self._of(params, model_state, batch))

    def _of(self, params: Arrays, model_state: Arrays, batch: Arrays) -> Arrays:
        inputs = self._dataset.normalize(batch['inputs'])
        logits = self._net.predict(params, model_state, inputs)
        if self._flips:
            mirrored = self._net.predict(params, model_state, inputs[:, :, ::-1])
            dense = self._objective.dense
            logits = (logits + (mirrored[:, :, ::-1] if dense else mirrored)) / 2
        return self._objective.sums(logits, batch['labels'], batch['weights'])


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
        sums = BatchSums(net, objective, dataset, flips=flips)
        self._add = devices.jit(sums.add)
        self._zero = sums.zero(split)

    def __call__(self, params: Arrays, model_state: Arrays) -> dict[str, Any]:
        """Returns `Objective.sums` of the whole split."""
        sums = self._devices.put(self._zero)
        for batch in evaluation_batches(self._split, self._batch_size):
            sums = self._add(sums, params, model_state, self._devices.put_rows(batch))
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


Sums = Mapping[str, dict[str, Any]]  # `Objective.sums` of a split, for `evaluated_params`


def evaluated_params(state: TrainState) -> dict[str, Arrays]:
    """Returns the parameters under '' and their moving average, if there is one, under 'ema_'."""
    return {'': state.params} | ({} if state.ema is None else {'ema_': state.ema})


def evaluation(objective: Objective, split: str, sums: Sums) -> Evaluation:
    """Describes the sums of one split during training."""
    found = {prefix: objective.summary(each) for prefix, each in sums.items()}
    metrics = {f'{split}_{p}{n}': value for p, row in found.items() for n, value in row.items()}
    best = objective.metric
    line = f'{split} loss {found[""]["loss"]:.4f}'
    if best != 'loss':
        line += f'  {best.replace("_", " ")} {found[""][best]:.4f}'
    if 'ema_' in found:
        line += f' ({found["ema_"][best]:.4f} averaged)'
    return Evaluation(metrics, line, objective.score(found.get('ema_', found[''])))


def final_metrics(objective: Objective, step: int, sums: Mapping[str, Sums]) -> dict[str, Any]:
    """Returns the content of `result.json` for the sums of every split."""
    result: dict[str, Any] = {'step': step, 'metric': objective.metric}
    for split, found in sums.items():
        for prefix, each in found.items():
            result[prefix + split] = objective.summary(each) | objective.details(each)
    return result


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
        self._newest: dict[tuple[int, str], Sums] = {}  # of the last evaluation, by step and split

    def evaluate(self, state: TrainState, step: int, split: str) -> Evaluation:
        found = self._sums(state, split)
        self._newest = {(step, split): found}
        return evaluation(self._objective, split, found)

    def final(self, state: TrainState, step: int) -> dict[str, Any]:
        # The last step has usually been evaluated already.
        found = {
            split: self._newest.get((step, split)) or self._sums(state, split)
            for split in self._evaluators
        }
        return final_metrics(self._objective, step, found)

    def _sums(self, state: TrainState, split: str) -> Sums:
        evaluator = self._evaluators[split]
        return {n: evaluator(p, state.model_state) for n, p in evaluated_params(state).items()}

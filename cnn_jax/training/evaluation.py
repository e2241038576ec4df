"""Computes exact metrics over whole splits, during training and at its end."""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data import Dataset, Split
from cnn_jax.data.loader import evaluation_batches
from cnn_jax.training.devices import Devices
from cnn_jax.training.metrics import example_sums, summary
from cnn_jax.training.state import Arrays, FunctionalModel, TrainState


class SplitEvaluator:
    """Evaluates parameters on one split, as often as needed, with one compilation.

    Args:
        net: the model.
        dataset: the data set, which normalises the inputs.
        split: the examples to evaluate.
        devices: the devices over which each batch is sharded.
        batch_size: number of examples per batch.
        flips: whether to average the logits of each image (H, W, C) and of its mirror image.
    """

    def __init__(
        self,
        net: FunctionalModel,
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
                logits = (logits + net.predict(params, model_state, inputs[:, :, ::-1])) / 2
            new = example_sums(logits, batch['labels'], batch['weights'])
            return jax.tree.map(jnp.add, sums, new)

        self._add_batch = jax.jit(add_batch, donate_argnums=0, out_shardings=devices.replicated)
        one = jax.ShapeDtypeStruct((1,), jnp.float32)
        logits = jax.ShapeDtypeStruct((1, dataset.num_classes), jnp.float32)
        label = jax.ShapeDtypeStruct((1,), jnp.int32)
        shapes = jax.eval_shape(example_sums, logits, label, one)
        self._zero = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)

    def __call__(self, params: Arrays, model_state: Arrays) -> dict[str, Any]:
        """Returns `metrics.example_sums` of the whole split, the input of `metrics.summary`."""
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


class Evaluator(Protocol):
    """Evaluates the states of one run."""

    def evaluate(self, state: TrainState, step: int, split: str) -> Evaluation:
        """Evaluates `state` on one split during training, after `step` steps."""

    def final(self, state: TrainState, step: int) -> dict[str, Any]:
        """Evaluates `state` after training and returns the content of `result.json`."""


class ClassifierEvaluator:
    """Computes loss and accuracy on every split except `train`, for averaged weights as well."""

    def __init__(self, net: FunctionalModel, dataset: Dataset, devices: Devices, batch_size: int):
        self._evaluators = {
            name: SplitEvaluator(net, dataset, split, devices, batch_size)
            for name, split in dataset.splits.items()
            if name != 'train'
        }

    def evaluate(self, state: TrainState, step: int, split: str) -> Evaluation:
        del step
        found = summary(self._evaluators[split](state.params, state.model_state))
        metrics = {f'{split}_{name}': value for name, value in found.items()}
        line = f'{split} loss {found["loss"]:.4f}  accuracy {found["accuracy"]:.4f}'
        score = found['accuracy']
        if state.ema is not None:
            average = summary(self._evaluators[split](state.ema, state.model_state))
            metrics |= {f'{split}_ema_{name}': value for name, value in average.items()}
            line += f' ({average["accuracy"]:.4f} averaged)'
            score = average['accuracy']
        return Evaluation(metrics, line, score)

    def final(self, state: TrainState, step: int) -> dict[str, Any]:
        result: dict[str, Any] = {'step': step}
        for name, evaluator in self._evaluators.items():
            for prefix, key in (('', 'params'), ('ema_', 'ema')):
                params = getattr(state, key)
                if params is not None:
                    sums = evaluator(params, state.model_state)
                    result[prefix + name] = summary(sums)
                    result[prefix + name]['confusion'] = sums['confusion'].tolist()
        return result

"""Evaluation: exact metrics of a whole split, and what a run computes from them."""

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
        dataset: for its normalisation.
        split: the examples.
        devices: a batch is shared out over them.
        batch_size: examples in a batch.
        flips: the logits of an image (H, W, C) are the mean of its own and its mirror image's.
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
        """Sums over the split, see `metrics.example_sums`; `metrics.summary` reads them."""
        sums = self._devices.put(self._zero)
        for batch in evaluation_batches(self._split, self._batch_size):
            sums = self._add_batch(sums, params, model_state, self._devices.put_rows(batch))
        return jax.device_get(sums)


class Evaluation(NamedTuple):
    """The result of an evaluation during training.

    Attributes:
        metrics: by name, with the split: 'test_loss'.
        line: the same for a terminal.
        score: ranks checkpoints, higher is better; None where they are not ranked.
    """

    metrics: dict[str, float]
    line: str
    score: float | None


class Evaluator(Protocol):
    """Evaluates states of one run."""

    def evaluate(self, state: TrainState, step: int, split: str) -> Evaluation:
        """Evaluates on one split during training, after `step` steps."""

    def final(self, state: TrainState, step: int) -> dict[str, Any]:
        """Evaluates at the end; returns the content of `result.json`."""


class ClassifierEvaluator:
    """Loss and accuracy on every split but the training's, of the averaged weights too."""

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

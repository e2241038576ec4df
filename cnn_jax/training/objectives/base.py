"""Defines the base class of objectives."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cnn_jax.errors import UserError


class Objective:
    """What a model is trained for: a loss, and metrics that are exact for whole splits.

    Shapes: outputs (N, ...) float are the model's, labels (N, ...) the data set's. `targets`,
    `loss`, `step_metrics`, `sums` and `predictions` are traceable.

    Attributes:
        metric: the metric of `summary` that describes a model in one number and ranks checkpoints:
            'loss' (lower is better), or another (higher is better).
        dense: whether labels (N, H, W) and outputs (N, H, W, ...) have the axes of an image, so
            that whatever moves or mirrors an image moves them, too.
    """

    metric: str = 'loss'
    dense: bool = False

    def check(self, outputs: Any, labels: Any) -> None:
        """Checks what the model returns.

        Args:
            outputs: shapes and dtypes of the outputs for N examples.
            labels: shape and dtype of their labels.

        Raises:
            UserError: the outputs do not fit the labels.
        """

    def targets(self, labels: jax.Array, *, mixed: bool = False) -> jax.Array:
        """Returns the training targets; `mixed`: as values that can be averaged."""
        del mixed
        return labels

    def loss(self, outputs: Any, targets: jax.Array) -> jax.Array:
        """Returns the training loss of a batch, a scalar."""
        raise NotImplementedError

    def step_metrics(self, outputs: Any, labels: jax.Array) -> dict[str, jax.Array]:
        """Returns metrics of a training batch beside its loss, as means over examples."""
        del outputs, labels
        return {}

    def sums(self, outputs: Any, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
        """Returns sums over the examples of a batch, which can be added.

        Args:
            outputs: the outputs of the model.
            labels: the labels.
            weights: (N,) float32, 0 for padding.
        """
        raise NotImplementedError

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Returns the metrics of the examples whose `sums` are given."""
        raise NotImplementedError

    def details(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Returns further content for `result.json`, JSON-serialisable."""
        del sums
        return {}

    def table(self, sums: Mapping[str, Any], names: Sequence[str]) -> str:
        """Returns a text table with one line per class or output, or ''."""
        del sums, names
        return ''

    def predictions(self, outputs: Any) -> Any:
        """Returns what is reported for new inputs: probabilities (N, classes), or values."""
        return outputs

    def score(self, found: Mapping[str, float]) -> float:
        """Returns the number that ranks checkpoints, higher is better, for a `summary`."""
        return -found['loss'] if self.metric == 'loss' else found[self.metric]


def check_columns(outputs: Any, num_outputs: int, what: str) -> None:
    """Checks that outputs have the shape (N, num_outputs).

    Raises:
        UserError: they are not one array, or have another shape.
    """
    leaves = jax.tree.leaves(outputs)
    if len(leaves) != 1 or leaves[0].shape[1:] != (num_outputs,):
        shapes = ', '.join(f'(N, {", ".join(map(str, leaf.shape[1:]))})' for leaf in leaves)
        raise UserError(f'its output has shape {shapes}; must be (N, {num_outputs}), {what}')


def safe_ratio(numerator: Any, denominator: Any) -> np.ndarray:
    """Returns the ratio in float64, and NaN where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, 'f8'), np.asarray(denominator, 'f8')
    return np.divide(
        numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0
    )

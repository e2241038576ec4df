"""Classification: one class per example."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.errors import UserError
from cnn_jax.training import metrics
from cnn_jax.training.objectives.base import Objective, check_columns


@dataclasses.dataclass(frozen=True)
class Classification(Objective):
    """Softmax cross entropy in nats; outputs are logits (N, classes), labels int32 (N,).

    Attributes:
        num_classes: number of logits.
        label_smoothing: share of the target that is spread evenly over all classes.
        class_weights: one weight per class for the loss in training, or () for none. The loss of a
            batch is then sum_i w[y_i] l_i / sum_i w[y_i], as in PyTorch's CrossEntropyLoss.
    """

    num_classes: int
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    metric = 'accuracy'

    def check(self, outputs: Any, labels: Any) -> None:
        check_columns(outputs, self.num_classes, 'one logit per class')

    def targets(self, labels: jax.Array, *, mixed: bool = False) -> jax.Array:
        """Returns labels (N,), or distributions (N, classes) if they are mixed or smoothed."""
        if not mixed and not self.label_smoothing:
            return labels
        return optax.smooth_labels(jax.nn.one_hot(labels, self.num_classes), self.label_smoothing)

    def loss(self, outputs: Any, targets: jax.Array) -> jax.Array:
        soft = targets.ndim == outputs.ndim
        cross_entropy = (
            optax.softmax_cross_entropy if soft else optax.softmax_cross_entropy_with_integer_labels
        )
        losses = cross_entropy(outputs, targets)
        if not self.class_weights:
            return losses.mean()
        weights = jnp.asarray(self.class_weights, losses.dtype)[targets]
        # A batch may hold only classes of weight 0; its loss is then 0.
        total = weights.sum()
        return (weights * losses).sum() / jnp.where(total > 0, total, 1)

    def step_metrics(self, outputs: Any, labels: jax.Array) -> dict[str, jax.Array]:
        hits = jnp.argmax(outputs, axis=-1) == labels
        return {'accuracy': hits.mean(dtype=jnp.float32)}

    def sums(self, outputs: Any, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
        return metrics.example_sums(outputs, labels, weights)

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        return metrics.summary(sums)

    def details(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        return {'confusion': np.asarray(sums['confusion']).tolist()}

    def table(self, sums: Mapping[str, Any], names: Sequence[str]) -> str:
        return metrics.class_table(np.asarray(sums['confusion']), names)

    def predictions(self, outputs: Any) -> Any:
        return jax.nn.softmax(outputs)


def balanced(labels: np.ndarray, class_names: Sequence[str]) -> tuple[float, ...]:
    """Returns N / (classes x examples of the class), with which all classes weigh the same.

    Raises:
        UserError: a class has no example.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if not counts.all():
        missing = class_names[int(counts.argmin())]
        raise UserError(f"class_weights='balanced': class {missing!r} has no training example")
    return tuple((len(labels) / (len(counts) * counts)).tolist())

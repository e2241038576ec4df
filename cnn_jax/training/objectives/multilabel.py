"""Multi-label classification: any number of classes per example."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.tables import aligned
from cnn_jax.training.objectives.base import Objective, check_columns, safe_ratio


@dataclasses.dataclass(frozen=True)
class MultiLabel(Objective):
    """Binary cross entropy in nats, the mean over examples and classes.

    Outputs are logits (N, classes), labels int32 (N, classes) of 0 and 1. A class is predicted if
    its logit is above 0.

    Attributes:
        num_classes: number of logits.
        label_smoothing: share of the target that is spread evenly over 0 and 1.
    """

    num_classes: int
    label_smoothing: float = 0.0

    metric = 'macro_f1'

    def check(self, outputs: Any, labels: Any) -> None:
        check_columns(outputs, self.num_classes, 'one logit per class')

    def targets(self, labels: jax.Array, *, mixed: bool = False) -> jax.Array:
        """Returns the probability of every class, float32 (N, classes)."""
        return labels * (1.0 - self.label_smoothing) + self.label_smoothing / 2

    def loss(self, outputs: Any, targets: jax.Array) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(outputs, targets).mean()

    def step_metrics(self, outputs: Any, labels: jax.Array) -> dict[str, jax.Array]:
        return {'accuracy': ((outputs > 0) == (labels > 0)).mean(dtype=jnp.float32)}

    def sums(self, outputs: Any, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
        """Returns loss, the number of examples, of exact ones, and counts per class (C,)."""
        outputs, wanted = outputs.astype(jnp.float32), labels > 0
        each = optax.sigmoid_binary_cross_entropy(outputs, wanted.astype(jnp.float32)).mean(-1)
        counted = weights > 0
        said = outputs > 0
        count = lambda chosen: (chosen & counted[:, None]).sum(0, dtype=jnp.int32)  # noqa: E731
        return {
            'loss': jnp.where(counted, each * weights, 0.0).sum(),
            'examples': counted.sum(dtype=jnp.int32),
            'exact': ((said == wanted).all(-1) & counted).sum(dtype=jnp.int32),
            'true_positives': count(said & wanted),
            'said': count(said),
            'true': count(wanted),
        }

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Returns loss (nats), accuracy, exact_match, micro_f1 and macro_f1 (fractions).

        `accuracy` counts every class of every example. Classes that are neither true nor predicted
        do not count in `macro_f1`.
        """
        examples = max(int(sums['examples']), 1)
        hits, said, true = (
            np.asarray(sums[name], np.int64) for name in ('true_positives', 'said', 'true')
        )
        wrong = int((said + true - 2 * hits).sum())
        f1 = safe_ratio(2 * hits, said + true)
        known = f1[np.isfinite(f1)]
        return {
            'loss': float(sums['loss']) / examples,
            'accuracy': 1 - wrong / (examples * self.num_classes),
            'exact_match': int(sums['exact']) / examples,
            'micro_f1': float(np.nan_to_num(safe_ratio(2 * hits.sum(), said.sum() + true.sum()))),
            'macro_f1': float(known.mean()) if known.size else 0.0,
        }

    def table(self, sums: Mapping[str, Any], names: Sequence[str]) -> str:
        hits, said, true = (sums[name] for name in ('true_positives', 'said', 'true'))
        columns = safe_ratio(hits, true), safe_ratio(hits, said), safe_ratio(2 * hits, true + said)
        rows = [('class', 'examples', 'recall', 'precision', 'f1')]
        for name, count, recall, precision, f1 in zip(names, true, *columns, strict=True):
            rows.append((name, f'{count}', f'{recall:.4f}', f'{precision:.4f}', f'{f1:.3f}'))
        return aligned(rows)

    def predictions(self, outputs: Any) -> Any:
        return jax.nn.sigmoid(outputs)

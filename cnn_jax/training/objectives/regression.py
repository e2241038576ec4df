"""Regression: one or more numbers per example."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.tables import aligned
from cnn_jax.training.objectives.base import Objective, check_columns, safe_ratio


@dataclasses.dataclass(frozen=True)
class Regression(Objective):
    """Mean squared error over examples and outputs; outputs and labels are float32 (N, outputs).

    Attributes:
        num_outputs: number of values per example.
        centre: constants near the mean of each label. The sums are taken relative to them, so that
            float32 loses no digits of labels far from 0.
    """

    num_outputs: int
    centre: tuple[float, ...]

    metric = 'r2'

    def check(self, outputs: Any, labels: Any) -> None:
        check_columns(outputs, self.num_outputs, 'one value per output')

    def targets(self, labels: jax.Array, *, mixed: bool = False) -> jax.Array:
        return labels

    def loss(self, outputs: Any, targets: jax.Array) -> jax.Array:
        return jnp.square(outputs - targets).mean()

    def step_metrics(self, outputs: Any, labels: jax.Array) -> dict[str, jax.Array]:
        return {'mae': jnp.abs(outputs - labels).mean()}

    def sums(self, outputs: Any, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
        """Returns the number of examples and, per output (K,), sums of errors and of labels."""
        counted = (weights > 0)[:, None]
        error = outputs.astype(jnp.float32) - labels
        shifted = labels - jnp.asarray(self.centre, jnp.float32)
        add = lambda values: jnp.where(counted, values, 0.0).sum(0)  # noqa: E731
        return {
            'examples': counted.sum(dtype=jnp.int32),
            'squared': add(jnp.square(error)),
            'absolute': add(jnp.abs(error)),
            'labels': add(shifted),
            'squared_labels': add(jnp.square(shifted)),
        }

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Returns loss (mean squared error), rmse, mae, and r2, the mean over outputs.

        r2 is 1 - (squared error) / (squared deviation of the labels from their mean), and NaN for
        constant labels.
        """
        columns = self._columns(sums)
        return {
            'loss': float(np.mean(columns['mse'])),
            'rmse': float(np.sqrt(np.mean(columns['mse']))),
            'mae': float(np.mean(columns['mae'])),
            'r2': float(np.mean(columns['r2'])),
        }

    def table(self, sums: Mapping[str, Any], names: Sequence[str]) -> str:
        columns = self._columns(sums)
        rows = [('output', 'rmse', 'mae', 'r2')]
        for name, mse, mae, r2 in zip(names, *columns.values(), strict=True):
            rows.append((name, f'{mse**0.5:.4g}', f'{mae:.4g}', f'{r2:.4f}'))
        return aligned(rows)

    def _columns(self, sums: Mapping[str, Any]) -> dict[str, np.ndarray]:
        n = max(int(sums['examples']), 1)
        values = {k: np.asarray(v, np.float64) for k, v in sums.items() if k != 'examples'}
        spread = values['squared_labels'] - values['labels'] ** 2 / n
        # A difference this small is the rounding of the float32 sums: the labels are constant.
        spread = np.where(spread > 1e-6 * values['squared_labels'], spread, 0.0)
        return {
            'mse': values['squared'] / n,
            'mae': values['absolute'] / n,
            'r2': 1 - safe_ratio(values['squared'], spread),
        }

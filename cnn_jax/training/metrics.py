"""Computes sums over examples, which give exact metrics for any division into batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.tables import aligned

TOP = 5


def example_sums(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    """Computes sums over one batch. The sums of several batches can be added.

    Args:
        logits: (N, C) float.
        labels: (N,) int.
        weights: (N,) float32, 0 for padding.

    Returns:
        loss (float32, nats), confusion (C, C) int32 (counts indexed by label and prediction) and,
        if C > 5, top_5 (the number of examples whose label is among the five highest logits).
    """
    classes = logits.shape[-1]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    # `where` instead of a product: padding may hold any value, and 0 * inf is NaN.
    sums = {'loss': jnp.where(weights > 0, loss * weights, 0.0).sum()}
    counts = (weights > 0).astype(jnp.int32)
    predicted = jnp.argmax(logits, axis=-1)
    sums['confusion'] = jnp.zeros((classes, classes), jnp.int32).at[labels, predicted].add(counts)
    if classes > TOP:
        own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
        # Ties count against the example, and NaN counts as wrong.
        better = (logits >= own).sum(axis=-1) - 1
        hit = (better < TOP) & jnp.isfinite(own[:, 0])
        sums['top_5'] = (counts * hit).sum()
    return sums


def summary(sums: Mapping[str, Any]) -> dict[str, float]:
    """Returns metrics from the sums: loss (mean, nats), accuracy and top_5_accuracy (fractions)."""
    confusion = np.asarray(sums['confusion'], np.int64)
    count = max(int(confusion.sum()), 1)
    result = {
        'loss': float(sums['loss']) / count,
        'accuracy': float(np.trace(confusion) / count),
    }
    if 'top_5' in sums:
        result['top_5_accuracy'] = float(sums['top_5']) / count
    return result


def per_class(confusion: np.ndarray) -> list[dict[str, float]]:
    """Returns examples, recall, precision and F1 of every class (NaN where a divisor is 0)."""
    confusion = np.asarray(confusion, np.float64)
    hits, true, said = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid='ignore', divide='ignore'):
        columns = {
            'examples': true,
            'recall': hits / true,
            'precision': hits / said,
            'f1': 2 * hits / (true + said),
        }
    return [{k: float(v[i]) for k, v in columns.items()} for i in range(len(hits))]


def class_table(confusion: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns `per_class` as a text table."""
    rows = [('class', 'examples', 'recall', 'precision', 'f1')]
    for name, row in zip(class_names, per_class(confusion), strict=True):
        shares = f'{row["recall"]:.4f}', f'{row["precision"]:.4f}', f'{row["f1"]:.3f}'
        rows.append((name, f'{row["examples"]:.0f}', *shares))
    return aligned(rows)

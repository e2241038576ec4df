"""Loss and metrics of semantic segmentation, as pure functions.

Labels are masks (N, H, W) of integers: a class in [0, C), or `IGNORE` for a pixel that does not
count. Logits (N, H', W', C) of a smaller size belong to the centre of the image.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.data.masks import IGNORE
from cnn_jax.models.segmenter import centre
from cnn_jax.tables import aligned

# Pixels are counted in two parts, count % BASE and count // BASE. A split may have more pixels than
# int32 holds, but sums of these parts hold 2**20 batches and 2**44 pixels in uint32.
_BASE_BITS = 12


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the softmax cross entropy in nats, averaged over the pixels that count.

    This is the default of torch.nn.CrossEntropyLoss(ignore_index=255), except that it is 0, not
    NaN, if no pixel counts, so that such a batch leaves the parameters finite.

    Args:
        logits: (N, H', W', C) float.
        labels: (N, H, W) int.
    """
    losses, counts = _pixel_losses(logits, centre(labels, logits.shape[1:3]))
    return losses.sum() / jnp.maximum(counts.sum(), 1)


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the fraction of correct pixels among those that count; 0 if none does."""
    labels = centre(labels, logits.shape[1:3])
    hits = (jnp.argmax(logits, axis=-1) == labels).sum(dtype=jnp.float32)
    return hits / jnp.maximum((labels != IGNORE).sum(), 1)


def _pixel_losses(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the loss of every pixel, 0 where it does not count, and whether it counts."""
    counts = labels != IGNORE
    labels = jnp.where(counts, labels, 0).astype(jnp.int32)
    # Both results of `where` are needed: the gradient at an infinite logit is NaN even times 0.
    logits = jnp.where(counts[..., None], logits.astype(jnp.float32), 0.0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.where(counts, losses, 0.0), counts


def example_sums(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    """Computes sums over one batch. The sums of several batches can be added.

    Args:
        logits: (N, H', W', C) float.
        labels: (N, H, W) int.
        weights: (N,) float32, 0 for padding.

    Returns:
        loss (float32, nats, over all pixels that count), and confusion (2, C, C) uint32, from which
        `confusion_matrix` makes the counts indexed by label and prediction.
    """
    classes = logits.shape[-1]
    labels = centre(labels, logits.shape[1:3])
    labels = jnp.where(weights[:, None, None] > 0, labels, IGNORE)
    losses, counts = _pixel_losses(logits, labels)
    rows = jnp.where(counts, labels, 0).astype(jnp.int32)
    predicted = jnp.argmax(logits, axis=-1)
    zero = jnp.zeros((classes, classes), jnp.uint32)
    confusion = zero.at[rows, predicted].add(counts.astype(jnp.uint32))
    parts = confusion & (2**_BASE_BITS - 1), confusion >> _BASE_BITS
    return {'loss': losses.sum(), 'confusion': jnp.stack(parts)}


def confusion_matrix(sums: Mapping[str, Any]) -> np.ndarray:
    """Returns the number of pixels by label and prediction, (C, C) int64, from `example_sums`."""
    low, high = np.asarray(sums['confusion'], np.int64)
    return (high << _BASE_BITS) + low


def iou(confusion: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of every class, (C,) float64.

    It is NaN for a class that no pixel has as its label or its prediction.
    """
    confusion = np.asarray(confusion, np.float64)
    hits = np.diag(confusion)
    return _ratio(hits, confusion.sum(0) + confusion.sum(1) - hits)


def dice(confusion: np.ndarray) -> np.ndarray:
    """Returns the Dice coefficient (F1) of every class, (C,) float64; NaN as in `iou`."""
    confusion = np.asarray(confusion, np.float64)
    return _ratio(2 * np.diag(confusion), confusion.sum(0) + confusion.sum(1))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(len(a), np.nan), where=b > 0)


def _mean(values: np.ndarray) -> float:
    """Returns the mean of the values that are not NaN; 0 if there are none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else 0.0


def summary(sums: Mapping[str, Any]) -> dict[str, float]:
    """Returns metrics from the sums of a split.

    Returns:
        loss (mean over pixels, nats), pixel_accuracy, and the means over classes of the
        intersection over union (miou) and of Dice (mean_dice). The means leave out classes that
        occur neither as a label nor as a prediction.
    """
    confusion = confusion_matrix(sums)
    count = max(int(confusion.sum()), 1)
    return {
        'loss': float(sums['loss']) / count,
        'pixel_accuracy': float(np.trace(confusion) / count),
        'miou': _mean(iou(confusion)),
        'mean_dice': _mean(dice(confusion)),
    }


def class_table(confusion: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns the pixels, intersection over union and Dice of every class as a text table."""
    rows = [('class', 'pixels', 'iou', 'dice')]
    columns = zip(class_names, confusion.sum(1), iou(confusion), dice(confusion), strict=True)
    rows += [(name, str(int(n)), f'{a:.4f}', f'{b:.4f}') for name, n, a, b in columns]
    return aligned(rows)

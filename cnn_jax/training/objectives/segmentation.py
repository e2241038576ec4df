"""Semantic segmentation: one class per pixel."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.errors import UserError
from cnn_jax.training import segmentation
from cnn_jax.training.objectives.base import Objective


@dataclasses.dataclass(frozen=True)
class Segmentation(Objective):
    """Softmax cross entropy in nats, the mean over the pixels of a batch that count.

    Outputs are logits (N, H', W', classes), labels masks (N, H, W); see `training.segmentation`. If
    a batch is split (`accumulate`, or `parallel='pmap'`), the parts have equal weights, whatever
    their number of pixels that count.

    Attributes:
        num_classes: number of logits per pixel.
    """

    num_classes: int

    metric = 'miou'
    dense = True

    def check(self, outputs: Any, labels: Any) -> None:
        leaves = jax.tree.leaves(outputs)
        size = labels.shape[1:]
        fits = len(leaves) == 1 and leaves[0].ndim == 4 and leaves[0].shape[3] == self.num_classes
        if not fits or any(a > b for a, b in zip(leaves[0].shape[1:3], size, strict=True)):
            shapes = ', '.join(f'(N, {", ".join(map(str, leaf.shape[1:]))})' for leaf in leaves)
            raise UserError(
                f'its output has shape {shapes}; must be (N, {size[0]}, {size[1]}, '
                f'{self.num_classes}), one logit per pixel and class, as of unet and fcn_resnet18'
            )

    def loss(self, outputs: Any, targets: jax.Array) -> jax.Array:
        return segmentation.cross_entropy(outputs, targets)

    def step_metrics(self, outputs: Any, labels: jax.Array) -> dict[str, jax.Array]:
        return {'pixel_accuracy': segmentation.accuracy(outputs, labels)}

    def sums(self, outputs: Any, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
        return segmentation.example_sums(outputs, labels, weights)

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        return segmentation.summary(sums)

    def details(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the number of pixels by label and prediction, and measures per class.

        `iou` and `dice` are None for a class that occurs neither as a label nor as a prediction.
        """
        pixels = segmentation.confusion_matrix(sums)
        measures = {'iou': segmentation.iou(pixels), 'dice': segmentation.dice(pixels)}
        found = {
            name: [None if np.isnan(value) else float(value) for value in values]
            for name, values in measures.items()
        }
        return {'pixels': pixels.tolist(), **found}

    def table(self, sums: Mapping[str, Any], names: Sequence[str]) -> str:
        return segmentation.class_table(segmentation.confusion_matrix(sums), names)

    def predictions(self, outputs: Any) -> Any:
        """Returns masks, uint8 (N, H', W')."""
        return jnp.argmax(outputs, axis=-1).astype(jnp.uint8)

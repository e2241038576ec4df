"""Defines `Segmenter`, the base class of models that classify every pixel of an image."""

from collections.abc import Sequence

import jax

from cnn_jax.models.base import Model


class Segmenter(Model):
    """`model(x)` maps images (N, H, W, C) to float32 logits (N, H', W', num_classes).

    `model(x, intermediates=maps)` also writes the result of every layer into the dict `maps`. H'
    and W' are H and W, or smaller if the model has no padding; the logits then belong to the centre
    of the image.
    """

    task = 'segmentation'


def centre(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Returns the centre of `x` (N, H, W, ...), cropped to `size` (height, width)."""
    top, left = ((have - want) // 2 for have, want in zip(x.shape[1:3], size, strict=True))
    return x[:, top : top + size[0], left : left + size[1]]

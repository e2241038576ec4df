"""Trains on smaller images first, then on images of full size (progressive resizing).

A text such as '14:0.4,20:0.7' stands for images of side 14 in the first 40 % of the steps, of side
20 until 70 %, and of full size from there on. The idea is Jeremy Howard's, of fast.ai's entry in
DAWNBench, 2018 (https://www.fast.ai/posts/2018-04-30-dawnbench-fastai.html); Tan and Le,
"EfficientNetV2", 2021, arXiv:2104.00298, study it. Their entries also change the batch size or the
regularisation with the size of the images. Here, nothing else changes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from cnn_jax.data import Dataset
from cnn_jax.errors import UserError
from cnn_jax.training.objectives import Objective
from cnn_jax.training.state import FunctionalModel

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the training with smaller images.

    Attributes:
        shape: (height, width, channels) of its images.
        end: the fraction of the training at which it ends.
    """

    shape: tuple[int, int, int]
    end: float

    def after(self, augment: Callable[..., tuple[Array, Array]] | None) -> Callable[..., Any]:
        """Returns an augmentation that applies `augment`, if any, and then resizes the images."""

        def resized(key: Array, images: Array, targets: Array) -> tuple[Array, Array]:
            if augment:
                images, targets = augment(key, images, targets)
            size = (len(images), *self.shape)
            return jax.image.resize(images, size, 'linear', antialias=True), targets

        return resized


def parse(text: str, dataset: Dataset) -> list[Stage]:
    """Parses the sides of the images, that is their shorter sides, and the ends of the stages.

    Raises:
        UserError: the text has another form, the numbers do not increase, a side is not below that
            of the data set's images, or the data set has no images.
    """
    if not text:
        return []
    if dataset.kind != 'image':
        raise UserError(f'progressive={text!r}: does not apply to {dataset.kind} data')
    try:
        pairs = [part.split(':') for part in text.split(',')]
        sides, ends = [int(side) for side, _ in pairs], [float(end) for _, end in pairs]
    except ValueError:
        raise UserError(
            f'progressive={text!r}: must be sides of images, each with the fraction of the '
            'training at which it ends, such as 14:0.4,20:0.7'
        ) from None
    *size, channels = dataset.input_shape
    for name, values, below in (('sides', sides, min(size)), ('fractions', ends, 1)):
        if sorted(set(values)) != values or not 0 < values[0] <= values[-1] < below:
            raise UserError(
                f'progressive={text!r}: the {name} must increase and be above 0 and below {below}'
            )
    shapes = [[round(n * side / min(size)) for n in size] for side in sides]
    return [
        Stage((height, width, channels), end)
        for (height, width), end in zip(shapes, ends, strict=True)
    ]


def check(text: str, dataset: Dataset, net: FunctionalModel, objective: Objective) -> None:
    """Checks that a model can be trained in the stages of a text.

    Raises:
        UserError: see `parse`; the labels have the axes of the images; or the model does not take
            smaller images with the same parameters. The message then names the layer.
    """
    stages = parse(text, dataset)
    if stages and objective.dense:
        raise UserError(f'progressive={text!r}: does not apply to {dataset.task}')
    for stage in stages:
        reached: dict[str, Any] = {}
        try:
            _predict(net.for_inputs(stage.shape), stage.shape, reached)
        except (UserError, TypeError, ValueError) as error:  # those of shapes that do not fit
            layers: dict[str, Any] = {}
            _predict(net, dataset.input_shape, layers)
            layer = next((f'layer {name}: ' for name in layers if name not in reached), '')
            height, width, _ = stage.shape
            raise UserError(
                f'progressive={text!r}: the model does not take images of {height} x {width} with '
                f'the parameters for full size: {layer}{error}'
            ) from error


def _predict(net: FunctionalModel, shape: tuple[int, ...], layers: dict[str, Any]) -> None:
    """Calls the model abstractly and adds the names of its layers, in order, to `layers`."""
    maps = layers if net.records_layers else None
    images = jax.ShapeDtypeStruct((2, *shape), 'float32')
    jax.eval_shape(
        lambda *arguments: net.predict(*arguments, intermediates=maps),
        net.params,
        net.model_state,
        images,
    )

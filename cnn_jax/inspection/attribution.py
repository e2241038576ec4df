"""Shows what a network responds to: saliency, Grad-CAM, receptive fields, patches, mistakes.

The functions take a model in evaluation mode that is a chain of named top-level layers
(`cnn_jax.models.base.Classifier`), and inputs in the form that the model takes.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnn_jax.errors import UserError
from cnn_jax.ops.geometry import ReceptiveField


def layer_names(model: nnx.Module) -> tuple[str, ...]:
    """Returns the names of the top-level layers in order; () if the model is not a chain."""
    return model.layers.layer_names if hasattr(model, 'layers') else ()


def unwrap(model: nnx.Module, inputs) -> None:
    """Replaces each wrapper of a layer, such as Flax's SpectralNorm, by its layer, in place.

    A wrapper writes the parameters of its layer when it is called, which JAX does not allow inside
    of a transformation of a function that merely uses the model. In evaluation mode they are always
    the same, so one call with `inputs` sets them.
    """
    wrappers = [
        (module, name, child)
        for _, module in nnx.iter_modules(model)
        for name, child in vars(module).items()
        if hasattr(child, 'layer_instance')
    ]
    if wrappers:
        model(inputs)
    for module, name, child in wrappers:
        setattr(module, name, child.layer_instance)


def split(model: nnx.Module, layer: str):
    """Splits a model after `layer` into two functions: input to output of `layer`, and to logits.

    Raises:
        ValueError: `layer` is not a top-level layer.
    """
    names = layer_names(model)
    if layer not in names:
        raise UserError(f'unknown layer {layer!r}; must be one of {", ".join(names)}')
    items = list(model.layers.items())
    at = names.index(layer) + 1

    def part(some):
        def run(x):
            for _, function in some:
                x = function(x)
            return x

        return run

    return part(items[:at]), part(items[at:])


def spatial_layers(model: nnx.Module, inputs) -> tuple[str, ...]:
    """Returns the names of the top-level layers whose output still has spatial axes."""
    maps: dict[str, jax.ShapeDtypeStruct] = {}

    def run(x):
        found = {}
        model(x, intermediates=found)
        return found

    maps = jax.eval_shape(run, inputs)
    return tuple(n for n in layer_names(model) if maps[n].ndim == inputs.ndim)


def saliency(model: nnx.Module, inputs, classes) -> np.ndarray:
    """Returns |d logit of the class / d input|, the maximum over channels: (N, *size).

    Simonyan, Vedaldi & Zisserman 2013, "Deep inside convolutional networks", arXiv:1312.6034,
    section 3.

    Args:
        model: the network.
        inputs: (N, *size, channels).
        classes: (N,) class indices.
    """

    def score(x):
        return jnp.take_along_axis(model(x), jnp.asarray(classes)[:, None], 1).sum()

    return np.asarray(jnp.abs(jax.jit(jax.grad(score))(inputs)).max(-1))


def grad_cam(model: nnx.Module, inputs, classes, layer: str) -> np.ndarray:
    """Computes Grad-CAM, a layer's evidence for a class: (N, *size of the layer), >= 0.

    The maps are weighted by the mean gradient of the class's logit, summed, and clipped at 0.
    Selvaraju et al. 2016, "Grad-CAM", arXiv:1610.02391, equations 1 and 2.

    Raises:
        ValueError: `layer` is not a top-level layer, or its output has no spatial axes.
    """
    front, back = split(model, layer)
    if jax.eval_shape(front, inputs).ndim != inputs.ndim:
        raise UserError(f'layer {layer!r} has no spatial axes')

    def score(maps):
        return jnp.take_along_axis(back(maps), jnp.asarray(classes)[:, None], 1).sum()

    @jax.jit
    def run(x):
        maps = front(x)
        axes = tuple(range(1, maps.ndim - 1))
        weights = jax.grad(score)(maps).mean(axes, keepdims=True)
        return jax.nn.relu((weights * maps).sum(-1))

    return np.asarray(run(inputs))


def effective_field(model: nnx.Module, inputs, layer: str) -> np.ndarray:
    """Computes the effective receptive field of the centre of a layer's maps: (*size), at most 1.

    This is |d centre / d input|, summed over channels, averaged over inputs and scaled to a maximum
    of 1. Most of it lies near the middle of the theoretical field. Luo et al. 2016, "Understanding
    the effective receptive field in deep convolutional neural networks", arXiv:1701.04128.
    """
    front, _ = split(model, layer)

    def centre(x):
        maps = front(x)
        return jnp.abs(maps[(slice(None), *(n // 2 for n in maps.shape[1:-1]))]).sum()

    gradient = jnp.abs(jax.jit(jax.grad(centre))(inputs)).sum(-1).mean(0)
    return np.asarray(gradient / jnp.maximum(gradient.max(), 1e-30))


@dataclasses.dataclass(frozen=True)
class Patch:
    """The part of an input that activates one channel most.

    Attributes:
        example: index of the input.
        position: position in the layer's map.
        value: activation at this position.
        low, high: bounds of the receptive field per spatial axis, clipped to the input.
    """

    example: int
    position: tuple[int, ...]
    value: float
    low: tuple[int, ...]
    high: tuple[int, ...]


def best_patches(
    maps: np.ndarray,
    field: ReceptiveField,
    size: Sequence[int],
    *,
    channels: Sequence[int],
    count: int = 9,
) -> dict[int, list[Patch]]:
    """Returns, per channel, the `count` examples that activate it most, at their best position.

    Args:
        maps: (N, *positions, C) output of a layer.
        field: receptive field of that layer (the same on all axes).
        size: spatial size of the inputs.
        channels: indices of the channels.
        count: maximum number of examples per channel.
    """
    found = {}
    positions = maps.shape[1:-1]
    for channel in channels:
        flat = maps[..., channel].reshape(len(maps), -1)
        where = flat.argmax(1)
        strongest = flat[np.arange(len(maps)), where]
        found[channel] = [
            _patch(int(n), np.unravel_index(where[n], positions), strongest[n], field, size)
            for n in np.argsort(-strongest, kind='stable')[:count]
        ]
    return found


def _patch(example, position, value, field, size):
    starts = [field.start + field.stride * int(p) for p in position]
    return Patch(
        example=example,
        position=tuple(int(p) for p in position),
        value=float(value),
        low=tuple(max(0, s) for s in starts),
        high=tuple(min(n, s + field.size) for s, n in zip(starts, size, strict=True)),
    )


def mistakes(logits, labels, count: int) -> list[tuple[int, int, float]]:
    """Returns (example, predicted class, probability) per wrong prediction, most probable first."""
    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)))
    predicted = probabilities.argmax(1)
    sure = probabilities[np.arange(len(predicted)), predicted]
    wrong = np.flatnonzero(predicted != np.asarray(labels))
    order = wrong[np.argsort(-sure[wrong], kind='stable')][:count]
    return [(int(n), int(predicted[n]), float(sure[n])) for n in order]

"""What the page shows of a network: feature maps, kernels, gradients, and checks of both."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.inspection import attribution, flops
from cnn_jax.inspection.page import agreement, layers

MAX_CHANNELS = 32  # of a layer that is shown as pictures alone
MAX_UNITS = 512  # of a layer without spatial axes

Content = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A network's numbers for a few inputs; all arrays are float32 and start with the axis N.

    Attributes:
        layers: in order.
        maps: layer -> its result; also `layers.INPUT`, what the first layer reads.
        windows: layer -> its windows, for the layers that the page explains.
        gradients: layer -> gradient of the logit of the predicted class with respect to its
            result, for the same layers.
        logits: (N, classes).
    """

    layers: list[layers.Layer]
    maps: dict[str, np.ndarray]
    windows: dict[str, layers.Windows]
    gradients: dict[str, np.ndarray]
    logits: np.ndarray

    def take(self, count: int) -> 'Recorded':
        """Returns the numbers of the first `count` inputs."""
        return dataclasses.replace(
            self,
            maps={name: value[:count] for name, value in self.maps.items()},
            gradients={name: value[:count] for name, value in self.gradients.items()},
            logits=self.logits[:count],
        )


def record(model: nnx.Module, inputs: np.ndarray) -> Recorded:
    """Runs a network forward and backward, and records what the page needs.

    Args:
        model: a chain of layers (`models.base.Classifier`) in evaluation mode that computes in
            float32.
        inputs: (N, H, W, C), as the model takes them.

    Raises:
        UserError: the model is no chain of layers.
    """
    if not isinstance(getattr(model, 'layers', None), nn.Layers):
        raise UserError(
            f'{type(model).__name__} is not a chain of layers: its layers cannot be shown in order'
        )
    attribution.unwrap(model, inputs)
    order = list(layers.in_order(model.layers))
    shapes = jax.eval_shape(lambda x: _forward(model, x)[1], inputs)
    sizes = {layers.INPUT: inputs.shape} | {name: s.shape for name, s in shapes.items()}
    windows = {}
    for layer in order:
        found = layers.windows(layer.module, sizes[layer.source][1:])
        if found is not None:
            windows[layer.name] = found
    watched = {name: shapes[name] for name in windows}
    logits, maps, gradients = _both_ways(model, inputs, watched)
    maps = {name: np.asarray(value, np.float32) for name, value in maps.items()}
    return Recorded(
        layers=order,
        maps={layers.INPUT: np.asarray(inputs, np.float32)} | maps,
        windows=windows,
        gradients={name: np.asarray(value) for name, value in gradients.items()},
        logits=np.asarray(logits),
    )


def _forward(model, x):
    maps: dict[str, jax.Array] = {}
    return model(x, intermediates=maps), maps


def _both_ways(model, inputs, watched):
    """Returns logits, maps, and the gradients with respect to the results of some layers."""
    graph, state = nnx.split(model)

    def score(added):
        # The gradient for an array that is added to a result is the gradient for the result.
        copy = nnx.merge(graph, state, copy=True)
        for name, value in added.items():
            module, attribute = layers.owner(copy, name)
            setattr(module, attribute, _plus(getattr(module, attribute), value))
        logits, maps = _forward(copy, inputs)
        predicted = logits.argmax(-1, keepdims=True)
        return jnp.take_along_axis(logits, predicted, 1).sum(), (logits, maps)

    zeros = {name: jnp.zeros(s.shape, s.dtype) for name, s in watched.items()}
    gradients, (logits, maps) = jax.jit(jax.grad(score, has_aux=True))(zeros)
    return logits, maps, gradients


def _plus(layer, value):
    return lambda x: layer(x) + value


def make(
    recorded: Recorded, rows: Sequence[flops.Row], explained: Sequence[str] | None = None
) -> Content:
    """Returns the layers of the page as a dict of JSON's types and arrays.

    Args:
        recorded: the numbers to show.
        rows: `flops.summary` of the model.
        explained: layers whose outputs are explained number by number; None means all that can be.
            The others have pictures of their maps alone, which are rounded to 8 bits.

    Returns:
        'input': the array (N, H, W, C). 'probabilities' and 'logits': (N, classes). 'layers': one
        dict per layer, whose 'maps' is a float32 array, a `rounded` one, or the name of the layer
        of which it shows max(x, 0).
    """
    explained = list(recorded.windows) if explained is None else list(explained)
    by_name = {layer.name: layer for layer in recorded.layers}
    exact = {layers.INPUT}
    for name in explained:
        exact |= {name, _stored(by_name, by_name[name].source)}
    costs = {row.name: row for row in rows}
    return {
        'input': recorded.maps[layers.INPUT],
        'logits': recorded.logits,
        'probabilities': np.asarray(jax.nn.softmax(recorded.logits)),
        'layers': [
            _layer(recorded, layer, costs.get(layer.name), exact, layer.name in explained, by_name)
            for layer in recorded.layers
        ],
    }


def _stored(by_name, name: str) -> str:
    """Returns the layer from whose stored maps those of a layer follow, through ReLUs."""
    while name != layers.INPUT and by_name[name].is_relu:
        name = by_name[name].source
    return name


def _layer(recorded, layer, cost, exact, is_explained, by_name) -> Content:
    maps = recorded.maps[layer.name]
    entry = {
        'name': layer.name,
        'type': layer.type,
        'meaning': layer.meaning,
        'source': layer.source,
        'input_shape': list(recorded.maps[layer.source].shape[1:]),
        'output_shape': list(maps.shape[1:]),
        'parameters': cost.parameters if cost else 0,
        'macs': cost.macs if cost else 0,
    }
    if layer.is_relu and _stored(by_name, layer.name) in exact:
        entry['maps'] = layer.source
    elif layer.name in exact:
        entry['maps'] = maps
    elif maps.ndim == 4:
        entry['maps'] = rounded(maps[..., :MAX_CHANNELS])
    elif maps.ndim == 2 and not isinstance(layer.module, nn.Flatten):
        entry['maps'] = maps[:, :MAX_UNITS]
    if is_explained:
        entry['windows'] = _explanation(recorded, layer)
    return entry


def rounded(maps: np.ndarray) -> Content:
    """Returns maps rounded to 256 evenly spaced values: low + step * levels, levels uint8."""
    low, high = float(maps.min()), float(maps.max())
    step = (high - low) / 255 or 1.0
    return {'levels': np.uint8(np.rint((maps - low) / step)), 'low': low, 'step': step}


def _explanation(recorded, layer) -> Content:
    found, gradient = recorded.windows[layer.name], recorded.gradients[layer.name]
    entry: Content = {
        'kind': found.kind,
        'size': list(found.size),
        'strides': list(found.strides),
        'dilation': list(found.dilation),
        'padding': list(found.padding),
        'gradient': gradient,
    }
    if found.kind == 'mean':
        entry['divisors'] = np.float32(found.divisors)
    if found.kind == 'convolution':
        kernel, bias = layers.kernel_and_bias(layer.module)
        entry |= {
            'groups': found.groups,
            'kernel': kernel,
            'bias': bias,
            'has_bias': layer.module.bias is not None,
            'implementation': found.implementation,
        }
    return entry


def checks(recorded: Recorded, name: str) -> list[Content]:
    """Compares all kernels where a convolution is largest, smallest, and matters most.

    Returns:
        Three dicts per example: 'why' the position was chosen; 'position', (example, row, column,
        channel); 'network', the number in the network's maps; and those of
        `agreement.by_kernels`.
    """
    layer = next(layer for layer in recorded.layers if layer.name == name)
    maps, gradient = recorded.maps[name], recorded.gradients[name]
    chosen = []
    for example, (y, dy) in enumerate(zip(maps, gradient, strict=True)):
        for why, flat in (
            ('maximum', y.argmax()),
            ('minimum', y.argmin()),
            ('strongest gradient', np.abs(dy).argmax()),
        ):
            place = tuple(int(i) for i in np.unravel_index(flat, y.shape))
            chosen.append((why, (example, *place)))
    found = agreement.by_kernels(
        recorded.maps[layer.source],
        *layers.kernel_and_bias(layer.module),
        recorded.windows[name],
        [position for _, position in chosen],
    )
    return [
        {'why': why, 'position': list(position), 'network': str(maps[position])} | entry
        for (why, position), entry in zip(chosen, found, strict=True)
    ]

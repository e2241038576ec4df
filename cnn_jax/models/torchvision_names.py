"""Maps the layers and parameters of a model to torchvision's names and layout.

A model with a counterpart in torchvision says so where it is made, with a function that maps the
names of all its layers to torchvision's names:

    def names(layers: Sequence[str]) -> dict[str, str]:
        return {name: name.replace('.block', '.') for name in layers}

    Classifier(nn.Layers(layers), input_shape, num_classes, torchvision=Counterpart(names))

Layers that torchvision does not have as modules are left out. The layer with the last name is the
head, which may have another number of classes in a file.

Differences between the two layouts:

    | parameter         | PyTorch                       | here                               |
    |-------------------|-------------------------------|------------------------------------|
    | convolution       | weight (out, in, h, w)        | kernel (h, w, in, out)             |
    | dense             | weight (out, in)              | kernel (in, out)                   |
    | dense as a 1 x 1  | weight (out, in, 1, 1)        | kernel (in, out)                   |
    |   convolution     |                               |                                    |
    | dense after       | in = channel, row, column,    | in = row, column, channel,         |
    |   flattening      |   the last fastest            |   the last fastest                 |
    | batch norm        | weight, running_mean, _var    | scale, mean, var                   |
    | layer scale       | layer_scale (channels, 1, 1)  | layer_scale (channels,)            |
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import Classifier, Counterpart

# PyTorch's names of parameters and statistics, in PyTorch's order. Others keep their names.
ATTRIBUTES = {
    'kernel': 'weight',
    'scale': 'weight',
    'bias': 'bias',
    'mean': 'running_mean',
    'var': 'running_var',
}


def counterpart(model: Classifier) -> Counterpart:
    """Returns what `model` says about its counterpart in torchvision.

    Raises:
        ValueError: torchvision does not have this model.
    """
    theirs = getattr(model, 'torchvision', None)  # only classifiers have one
    if theirs is None:
        raise UserError(
            'this model has no counterpart in torchvision; models for photographs, made for small '
            "images, have one with head='dense' or stem='large'"
        )
    return theirs


def torchvision_names(model: Classifier, *, all_layers: bool = False) -> dict[str, str]:
    """Maps the names of layers (as in `intermediates`) to torchvision's names, in order.

    Args:
        model: a model with a counterpart in torchvision; it may be abstract.
        all_layers: whether to include layers without parameters that are modules in torchvision.

    Raises:
        ValueError: torchvision does not have this model.
    """
    rename = counterpart(model).names
    layers = dict(walk(model.layers))
    return {
        name: theirs
        for name, theirs in rename(tuple(layers)).items()
        if all_layers or variables(layers[name])
    }


def numbered(layers: Sequence[str]) -> dict[str, str]:
    """Names as in torchvision's VGG and AlexNet: `features.0`, ..., `avgpool`, `classifier.0`, ...

    All layers have a number, also those without weights, except `avgpool` and `flatten`.
    """
    layers = [name for name in layers if '.' not in name]
    end = layers.index('avgpool')
    names = {name: f'features.{i}' for i, name in enumerate(layers[:end])}
    names['avgpool'] = 'avgpool'
    dense = [name for name in layers[end + 1 :] if name != 'flatten']
    return names | {name: f'classifier.{i}' for i, name in enumerate(dense)}


def positions(layers: Sequence[str]) -> dict[str, int]:
    """Returns the place of each layer in its block, from 0, by the layer's name."""
    counts: collections.Counter[str] = collections.Counter()
    found = {}
    for name in layers:
        block = name.rpartition('.')[0]
        found[name] = counts[block]
        counts[block] += 1
    return found


def walk(module: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Iterates over the names and layers inside a module, nested layers before their block."""
    if isinstance(module, nn.Layers):
        children = list(module.items())
        if isinstance(module, nn.Residual) and module.has_shortcut:
            children.append(('shortcut', module.shortcut))
    elif isinstance(module, nnx.Module):
        children = [
            (n, child) for n, child in vars(module).items() if isinstance(child, nnx.Module)
        ]
    else:
        children = []  # a function
    for name, child in children:
        yield from walk(child, f'{prefix}{name}.')
        yield prefix + name, child


def variables(layer: Any) -> dict[str, nnx.Variable]:
    """Returns a layer's own parameters and statistics by attribute, in PyTorch's order."""
    found = {
        name: variable
        for name, variable in getattr(layer, '__dict__', {}).items()
        if isinstance(variable, nnx.Param | nnx.BatchStat)
    }
    order = [name for name in ATTRIBUTES if name in found]
    return {name: found[name] for name in order + sorted(found.keys() - ATTRIBUTES)}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A variable of a model and its tensor in PyTorch.

    Attributes:
        key: the tensor's name.
        variable: the variable.
        flattened: for a dense layer that follows flattened maps, their (height, width), else ().
        ones: number of axes of size 1 at the end of the tensor's shape in torchvision.
    """

    key: str
    variable: nnx.Variable
    flattened: tuple[int, ...] = ()
    ones: int = 0

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The tensor's shape, where a dense layer is dense in PyTorch, too."""
        shape = tuple(self.variable.shape)
        return (*shape[:-3:-1], *shape[:-2]) if len(shape) > 1 else shape

    def takes(self, shape: Sequence[int]) -> bool:
        """Returns whether a tensor of this shape fits: further axes at the end must have size 1."""
        wanted = self.torch_shape
        ones = len(shape) - len(wanted)
        return tuple(shape) == wanted + (1,) * ones

    def convert(self, value: np.ndarray) -> np.ndarray:
        """Returns a tensor that fits in the layout of the variable; it may be a view."""
        value = value.reshape(self.torch_shape)
        if self.flattened:
            maps = value.reshape(len(value), -1, *self.flattened)
            return maps.transpose(2, 3, 1, 0).reshape(-1, len(value))
        return np.moveaxis(value, (0, 1), (-1, -2)) if value.ndim > 1 else value

    def revert(self, value: np.ndarray) -> np.ndarray:
        """Returns a value of the variable as the tensor in torchvision; it may be a view."""
        if self.flattened:
            maps = value.reshape(*self.flattened, -1, value.shape[-1])
            value = maps.transpose(3, 2, 0, 1)
        elif value.ndim > 1:
            value = np.moveaxis(value, (-1, -2), (0, 1))
        return value.reshape(self.torch_shape + (1,) * self.ones)


def parameters(model: Classifier) -> dict[str, Parameter]:
    """Returns the parameters and statistics of `model` by their names in torchvision, in order.

    Raises:
        ValueError: torchvision does not have this model.
    """
    layers = dict(walk(model.layers))
    flattened = _flattened(model.layers)
    found = {}
    for name, theirs in torchvision_names(model).items():
        for attribute, variable in variables(layers[name]).items():
            key = f'{theirs}.{ATTRIBUTES.get(attribute, attribute)}'
            is_kernel = attribute == 'kernel'
            maps = flattened.get(name, ()) if is_kernel else ()
            # In torchvision, squeeze-and-excitation consists of 1 x 1 convolutions.
            in_block = isinstance(layers.get(name.rpartition('.')[0]), nn.SqueezeExcitation)
            has_ones = attribute == 'layer_scale' or (is_kernel and in_block)
            found[key] = Parameter(key, variable, maps, ones=2 if has_ones else 0)
    return found


def _flattened(layers: nn.Layers) -> dict[str, tuple[int, ...]]:
    """Returns, for the dense layer after `Flatten`, the size of the maps by the layer's name."""
    size: tuple[int, ...] = ()
    flat = False
    for name, layer in layers.items():
        if isinstance(layer, nn.AdaptiveAvgPool):
            size = layer.output_shape
        elif isinstance(layer, nn.Flatten):
            flat = True
        elif isinstance(layer, nnx.Linear):
            return {name: size} if flat else {}
    return {}

"""Chains of named layers whose feature maps can be recorded by name."""

from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.errors import UserError
from cnn_jax.ops.lowering import rules

Intermediates = MutableMapping[str, jax.Array]


class Block(nnx.Module):
    """A module that is called with `(x, intermediates)` and may record its feature maps.

    `intermediates` is the dict that receives the feature maps, or None.
    """


class Layers(Block):
    """Applies named layers in order.

        stem = Layers({'conv': Conv(1, 8, (3, 3), rngs=rngs), 'relu': nnx.relu})
        maps = {}
        y = stem(x, maps)          # maps == {'conv': ..., 'relu': y}

    Every layer is stored as an attribute under its name, so parameters are found at
    `stem.conv.kernel`. Under `jax.jit`, the traced function must create, fill and return the dict.

    Args:
        layers: mapping from names to modules or functions of one array. A nested `Block` records
            its feature maps under names that begin with `name.`.

    Raises:
        ValueError: a name is not an identifier or is an attribute of modules ('train', ...).
    """

    def __init__(self, layers: Mapping[str, Callable[..., jax.Array]]):
        self.layer_names = tuple(layers)
        for name, layer in layers.items():
            if not name.isidentifier() or hasattr(self, name):
                raise UserError(f'a layer cannot be named {name!r}')
            setattr(self, name, layer)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Iterates over (name, layer) in the order of application."""
        return ((name, getattr(self, name)) for name in self.layer_names)

    def __call__(self, x: jax.Array, intermediates: Intermediates | None = None) -> jax.Array:
        for name in self.layer_names:
            x = self._apply(name, x, intermediates)
        return x

    def _apply(self, name: str, x: jax.Array, intermediates: Intermediates | None) -> jax.Array:
        """Applies one layer and records its feature maps."""
        layer = getattr(self, name)
        with jax.named_scope(name):  # profiles show it
            x = layer(x, within(intermediates, name)) if isinstance(layer, Block) else layer(x)
        if intermediates is not None:
            intermediates[name] = x
        return x

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns the spatial size of the result for an input of spatial size `size`.

        Raises:
            ValueError: a layer's window does not fit; the message names the layer.
        """
        size = tuple(size)
        for name in self.layer_names:
            size = self._size(name, size)
        return size

    def _size(self, name: str, size: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the spatial size of the result of one layer; raises as `output_size` does."""
        try:
            return size_after(getattr(self, name), size)
        except UserError as error:
            raise UserError(f'layer {name}: {error}') from None


def size_after(layer: Any, size: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the spatial size of the result of a module (also one of Flax's) or a function."""
    layer = getattr(layer, 'layer_instance', layer)  # Flax's SpectralNorm and WeightNorm wrap it
    if hasattr(layer, 'output_size'):
        return layer.output_size(size)
    convolves = isinstance(layer, nnx.Conv | nnx.ConvTranspose)
    if isinstance(layer, nnx.Module) and not convolves:
        return size  # Flax's other layers act on the feature axis only
    x = jax.ShapeDtypeStruct((1, *size, layer.in_features if convolves else 1), jnp.float32)
    try:
        result = jax.eval_shape(layer, x).shape[1:-1]
    except (TypeError, ValueError) as error:
        if not convolves:
            return size  # it may need more than one feature; assume that the size is kept
        raise UserError(f'an input of size {size} does not fit ({error})') from error
    if 0 in result:
        raise UserError(f'an input of size {size} is smaller than its window')
    return result


class Residual(Layers):
    """`activation(layers(x) + shortcut(x))`, the residual block (He et al. 2015, arXiv:1512.03385).

    Args:
        layers: the residual branch, as for `Layers`.
        shortcut: the shortcut branch, whose feature maps are recorded under names that begin with
            `shortcut.`; None means the identity.
        activation: function applied to the sum; None means no activation.
    """

    def __init__(
        self,
        layers: Mapping[str, Callable[..., jax.Array]],
        shortcut: Layers | None = None,
        activation: Callable[[jax.Array], jax.Array] | None = None,
    ):
        super().__init__(layers)
        self.activation = activation
        self.has_shortcut = shortcut is not None
        if shortcut is not None:
            self.shortcut = shortcut

    def __call__(self, x: jax.Array, intermediates: Intermediates | None = None) -> jax.Array:
        y = super().__call__(x, intermediates)
        skip = x
        if self.has_shortcut:
            skip = self.shortcut(x, within(intermediates, 'shortcut'))
        if self.activation is None:
            return y + skip
        with rules.marked():  # so that XLA:CPU computes the block's result once
            return self.activation(y + skip)


def within(intermediates: Intermediates | None, name: str) -> Intermediates | None:
    """Returns a mapping that writes to `intermediates` under names that begin with `name.`."""
    return None if intermediates is None else _Within(intermediates, f'{name}.')


class _Within(UserDict):
    def __init__(self, outer: Intermediates, prefix: str):
        super().__init__()
        self.outer, self.prefix = outer, prefix

    def __setitem__(self, name: str, value: jax.Array) -> None:
        super().__setitem__(name, value)
        self.outer[self.prefix + name] = value

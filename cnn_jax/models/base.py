"""Defines the base classes of models and the factory that makes their layers."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError, UserTypeError
from cnn_jax.ops.dense import dot_general
from cnn_jax.ops.dispatch import implementations
from cnn_jax.ops.types import DTypeLike, Size

# Axes of one example of each kind, channels last; a text is a sequence of token ids.
AXES = {
    'image': ('height', 'width', 'channels'),
    'audio': ('time', 'channels'),
    'text': ('length',),
}


@dataclasses.dataclass(frozen=True)
class LayerFactory:
    """Makes the layers of one model, all with the same random source, dtype and kernels.

    Attributes:
        rngs: source of the initial parameters and the dropout masks.
        dtype: dtype of the layers' computations; parameters are float32.
        implementation: names of kernels in order of preference; each operation uses
            those that it implements.
        norm_group: number of examples that share the statistics of batch norm in training; 0: all
            of the batch.
    """

    rngs: nnx.Rngs
    dtype: DTypeLike = jnp.float32
    implementation: tuple[str, ...] = ()
    norm_group: int = 0

    def conv(self, in_features: int, out_features: int, window: Size, **options: Any) -> nn.Conv:
        return nn.Conv(
            in_features,
            out_features,
            window,
            dtype=self.dtype,
            implementation=self.known_to('conv'),
            rngs=self.rngs,
            **options,
        )

    def conv_transpose(
        self, in_features: int, out_features: int, window: Size, **options: Any
    ) -> nn.ConvTranspose:
        return nn.ConvTranspose(
            in_features,
            out_features,
            window,
            dtype=self.dtype,
            implementation=self.known_to('conv_transpose'),
            rngs=self.rngs,
            **options,
        )

    def linear(self, in_features: int, out_features: int, **options: Any) -> nnx.Linear:
        options = {'dot_general': dot_general} | options
        return nnx.Linear(in_features, out_features, dtype=self.dtype, rngs=self.rngs, **options)

    def batch_norm(self, features: int, **options: Any) -> nn.BatchNorm:
        # Flax's momentum is the weight of the old average, so PyTorch's 0.1 is 0.9 here.
        options = {'momentum': 0.9, 'epsilon': 1e-5} | options
        options |= {'dtype': self.dtype, 'rngs': self.rngs}
        if self.norm_group:
            options = {'use_fast_variance': True} | options  # as nnx.BatchNorm
            return nn.GhostBatchNorm(features, group_size=self.norm_group, **options)
        return nn.BatchNorm(features, **options)

    def layer_norm(self, features: int, **options: Any) -> nnx.LayerNorm:
        return nnx.LayerNorm(features, dtype=self.dtype, rngs=self.rngs, **options)

    def squeeze_excitation(
        self, channels: int, hidden: int, **options: Any
    ) -> nn.SqueezeExcitation:
        return nn.SqueezeExcitation(channels, hidden, dtype=self.dtype, rngs=self.rngs, **options)

    def embed(self, tokens: int, features: int, **options: Any) -> nnx.Embed:
        return nnx.Embed(tokens, features, dtype=self.dtype, rngs=self.rngs, **options)

    def dropout(self, rate: float) -> nnx.Dropout:
        return nnx.Dropout(rate, rngs=self.rngs)

    def stochastic_depth(self, rate: float) -> nn.StochasticDepth:
        return nn.StochasticDepth(rate, rngs=self.rngs)

    def max_pool(
        self, window: Sequence[int], strides: int | Sequence[int] | None = None, **options: Any
    ) -> nn.MaxPool:
        chosen = self.known_to('max_pool')
        return nn.MaxPool(window, strides, implementation=chosen, **options)

    def avg_pool(
        self, window: Sequence[int], strides: int | Sequence[int] | None = None, **options: Any
    ) -> nn.AvgPool:
        chosen = self.known_to('avg_pool')
        return nn.AvgPool(window, strides, implementation=chosen, **options)

    def known_to(self, op: str) -> tuple[str, ...] | None:
        """Returns those of the named kernels that `op` implements, or None if there are none."""
        return tuple(n for n in self.implementation if n in implementations(op)) or None


def is_small(input_shape: Sequence[int]) -> bool:
    """Returns whether models designed for 224-pixel images should use their 32-pixel variant."""
    return min(input_shape[:2]) < 64


def choose_stem(stem: str | None, input_shape: Sequence[int]) -> str:
    """Returns `stem`, or if it is None, 'small' or 'large' by the size of the input.

    Raises:
        ValueError: `stem` is another word.
    """
    stem = stem or ('small' if is_small(input_shape) else 'large')
    if stem not in ('large', 'small'):
        raise UserError(f"stem={stem!r} must be 'large' or 'small'")
    return stem


class Model(nnx.Module):
    """A network with a fixed input shape.

    Attributes:
        kind: kind of data: 'image', 'audio' or 'text'.
        task: 'classification' by default.
        input_shape: shape of one example, without a batch axis.
        num_classes: number of logits.
    """

    task = 'classification'

    def __init__(self, input_shape: Sequence[int], num_classes: int):
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        self.kind = next(kind for kind, axes in AXES.items() if len(axes) == len(self.input_shape))

    def check_input(self, x: jax.Array) -> None:
        """Checks that `x` is a batch of examples for this model.

        Raises:
            ValueError: `x` has another shape.
            TypeError: an image or a waveform is not floating point, or token ids are.
        """
        if x.shape[1:] != self.input_shape or x.ndim != len(self.input_shape) + 1:
            axes = ', '.join(map(str, self.input_shape))
            raise UserError(f'this model takes inputs of shape (N, {axes}), got {x.shape}')
        if jnp.issubdtype(x.dtype, jnp.floating) == (self.kind == 'text'):
            wanted = 'integer token ids' if self.kind == 'text' else 'normalised floats'
            raise UserTypeError(f'this model takes {wanted}, got dtype {x.dtype}')


@dataclasses.dataclass(frozen=True)
class Counterpart:
    """The same model in torchvision, from whose files it can take weights.

    Attributes:
        names: maps the names of all layers, in order, to those modules that torchvision has. It
            must be a function of a file, so that models of the same kind are equal to JAX.
        unused: beginnings of the names of tensors that such a file may hold and the model lacks.
        present_name: maps a tensor's name in files of older versions to its present name.
    """

    names: Callable[[Sequence[str]], dict[str, str]]
    unused: tuple[str, ...] = ()
    present_name: Callable[[str], str] = str


class Chain(Model):
    """A model whose layers are a chain; see `Classifier` for the arguments."""

    def __init__(
        self,
        layers: nn.Layers,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        torchvision: Counterpart | None = None,
    ):
        super().__init__(input_shape, num_classes)
        feature_size(layers, input_shape)
        self.layers = layers
        self.torchvision = torchvision


class Classifier(Chain):
    """A chain of named layers from inputs to logits.

    `model(x)` returns float32 logits (N, num_classes). `model(x, intermediates=maps)` also writes
    the result of every layer into the dict `maps` under the layer's name.

    Args:
        layers: the layers.
        input_shape: shape of one example, without a batch axis.
        num_classes: number of logits.
        torchvision: the same model in torchvision, if it has it.

    Raises:
        ValueError: the input is too small for the layers.
    """

    def __call__(
        self, x: jax.Array, *, intermediates: nn.layers.Intermediates | None = None
    ) -> jax.Array:
        self.check_input(x)
        return self.layers(x, intermediates).astype(jnp.float32)


def feature_size(layers: nn.Layers, input_shape: Sequence[int]) -> tuple[int, ...]:
    """Returns the spatial size of the result of `layers` for `input_shape` (*size, channels).

    Raises:
        ValueError: the input is too small; the message names the smallest size that works.
    """
    size = tuple(input_shape)[:-1]
    try:
        return layers.output_size(size)
    except UserError as error:
        smallest = nn.sizes.smallest_size(layers.output_size, len(size))
        times = ' x '
        need = times.join([str(smallest)] * len(size))
        raise UserError(
            f'an input of size {times.join(map(str, size))} is too small for this model ({error}); '
            f'the smallest that works is {need}'
        ) from None


def flat_features(layers: nn.Layers, input_shape: Sequence[int], features: int) -> int:
    """Returns the size of the result of `layers` per example, for `features` output channels."""
    return math.prod(feature_size(layers, input_shape)) * features

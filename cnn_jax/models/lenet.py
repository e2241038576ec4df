"""LeNet-5, in its customary modern form and as in the paper of 1998.

LeCun, Bottou, Bengio & Haffner 1998, "Gradient-Based Learning Applied to Document Recognition",
section II.B. `lenet5` is the customary form, with dense connections between the two convolutions,
plain average pools and a linear output. `lenet5_1998` follows the paper: pools with a coefficient
and a bias per map, the incomplete connections of table I, the activation A tanh(S a) with
A = 1.7159 and S = 2/3, and images of 32 x 32. Unlike the paper, it has a linear output layer
instead of fixed radial basis functions.

    |             | input       | classes | parameters          | MACs    |
    |-------------|-------------|---------|---------------------|---------|
    | lenet5      | 28 x 28 x 1 |      10 |  61,706             | 416,520 |
    | lenet5      | 32 x 32 x 1 |      10 |  61,706             | 416,520 |
    | lenet5_1998 | 32 x 32 x 1 |      10 |  60,000 + 850       | 326,520 |

The paper counts 60,000 trainable parameters (without the output layer) and 340,908 connections.
Images of 28 x 28 are padded by 2 on each side, as in the paper.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import Classifier, LayerFactory, flat_features
from cnn_jax.ops.convolution import conv

# Table I: the maps of S2 (six in total) that are inputs of each of the sixteen maps of C3.
C3_SOURCES = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5)),
)


class Subsampling(nnx.Module):
    """Sums over 2 x 2 windows, then applies a trained coefficient and a trained bias per map."""

    def __init__(self, features: int, dtype: Any):
        self.sum = nn.AvgPool((2, 2))
        self.scale = nnx.Param(jnp.full((features,), 1 / 4))
        self.bias = nnx.Param(jnp.zeros((features,)))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        scale, bias = self.scale[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return 4 * self.sum(x) * scale + bias

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        return self.sum.output_size(size)


class TableConv(nnx.Module):
    """A 5 x 5 convolution in which each output map depends only on the input maps in a table.

    `kernel` (5, 5, connections) holds only the weights of connections in the table. `bias` has
    shape (outputs,).

    Args:
        make: the factory that provides dtype, implementation and random keys.
        inputs: number of input maps.
        sources: the input maps of each output map.
    """

    def __init__(self, make: LayerFactory, inputs: int, sources: Sequence[Sequence[int]]):
        self.inputs = inputs
        self.pairs = tuple((i, o) for o, row in enumerate(sources) for i in row)
        self.outputs = len(sources)
        self.dtype = make.dtype
        self.implementation = make.known_to('conv')
        init = nnx.initializers.lecun_normal()
        dense = init(make.rngs.params(), (5, 5, inputs, self.outputs), jnp.float32)
        self.kernel = nnx.Param(dense[:, :, *zip(*self.pairs, strict=True)])
        self.bias = nnx.Param(jnp.zeros((self.outputs,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        weights = self.kernel[...].astype(self.dtype)
        dense = jnp.zeros((5, 5, self.inputs, self.outputs), self.dtype)
        return conv(
            x.astype(self.dtype),
            dense.at[:, :, *zip(*self.pairs, strict=True)].set(weights),
            padding=0,
            bias=self.bias[...].astype(self.dtype),
            implementation=self.implementation,
        )

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(n - 4 for n in size)

    def macs(self, x_shape: Sequence[int], y_shape: Sequence[int]) -> int:
        """Returns the multiply-accumulates per example, counting only connections in the table."""
        return math.prod(y_shape[1:-1]) * 25 * len(self.pairs)


def lenet5(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    activation: str = 'tanh',
    pool: str = 'avg',
) -> Classifier:
    """Makes LeNet-5 in its customary form.

    Args:
        activation: 'tanh', 'sigmoid' or 'relu'.
        pool: 'avg' or 'max'.
    """
    activations = {'tanh': nnx.tanh, 'sigmoid': nnx.sigmoid, 'relu': nnx.relu}
    pools = {'avg': make.avg_pool, 'max': make.max_pool}
    if activation not in activations or pool not in pools:
        raise UserError(
            f'activation={activation!r} must be one of {", ".join(activations)}, '
            f'pool={pool!r} one of {", ".join(pools)}'
        )
    act = activations[activation]
    layers = {
        'c1': make.conv(input_shape[-1], 6, (5, 5), padding=_first_padding(input_shape)),
        'c1_act': act,
        's2': pools[pool]((2, 2)),
        'c3': make.conv(6, 16, (5, 5), padding=0),
        'c3_act': act,
        's4': pools[pool]((2, 2)),
    }
    flat = flat_features(nn.Layers(layers), input_shape, 16)
    layers |= {
        'flatten': nn.Flatten(),
        'c5': make.linear(flat, 120),
        'c5_act': act,
        'f6': make.linear(120, 84),
        'f6_act': act,
        'logits': make.linear(84, num_classes),
    }
    return Classifier(nn.Layers(layers), input_shape, num_classes)


def lenet5_1998(make: LayerFactory, input_shape: Sequence[int], num_classes: int) -> Classifier:
    """Makes LeNet-5 as in the paper, except for the output layer."""
    layers = {
        'c1': make.conv(input_shape[-1], 6, (5, 5), padding=_first_padding(input_shape)),
        's2': Subsampling(6, make.dtype),
        's2_act': _scaled_tanh,
        'c3': TableConv(make, 6, C3_SOURCES),
        's4': Subsampling(16, make.dtype),
        's4_act': _scaled_tanh,
    }
    flat = flat_features(nn.Layers(layers), input_shape, 16)
    layers |= {
        'flatten': nn.Flatten(),
        'c5': make.linear(flat, 120),
        'c5_act': _scaled_tanh,
        'f6': make.linear(120, 84),
        'f6_act': _scaled_tanh,
        'logits': make.linear(84, num_classes),
    }
    return Classifier(nn.Layers(layers), input_shape, num_classes)


def _first_padding(input_shape: Sequence[int]) -> int:
    return 2 if min(input_shape[:2]) < 32 else 0


def _scaled_tanh(x: jax.Array) -> jax.Array:
    return 1.7159 * jnp.tanh(2 / 3 * x)

"""Pooling and flattening modules over `cnn_jax.ops`. They have no parameters."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.ops.pool import (
    adaptive_avg_pool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    max_pool,
)
from cnn_jax.ops.pool_spec import make_spec
from cnn_jax.ops.types import Implementation, Padding


class MaxPool(nnx.Module):
    """Maximum over windows: `cnn_jax.max_pool` as a module.

        MaxPool((2, 2))(jnp.ones((8, 28, 28, 3))).shape == (8, 14, 14, 3)

    Args:
        window_shape: one int per spatial axis; its length is the number of spatial axes.
        strides: None means the window shape, as in PyTorch and Keras (in Flax's functions, 1).
        padding: int, ints, (lo, hi) pairs, 'VALID', 'SAME', ...; padded with minus infinity.
        dilation: distance between the elements of a window.
        ceil_mode: whether the last window may extend past the end if it begins inside.
        implementation: the kernel that computes the pooling.
    """

    def __init__(
        self,
        window_shape: Sequence[int],
        strides: int | Sequence[int] | None = None,
        *,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        implementation: Implementation = None,
    ):
        self.window_shape = tuple(window_shape)
        self.strides = strides
        self.padding = padding
        self.dilation = dilation
        self.ceil_mode = ceil_mode
        self.implementation = implementation

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps (*batch, *spatial, features) to (*batch, *output spatial, features)."""
        y = max_pool(
            inputs,
            self.window_shape,
            self.strides,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            implementation=self.implementation,
        )
        assert isinstance(y, jax.Array)  # no indices were requested
        return y

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns the spatial size of the result for an input of spatial size `size`."""
        return _pooled_size(size, self)


class AvgPool(nnx.Module):
    """Mean over windows: `cnn_jax.avg_pool` as a module.

    Args:
        window_shape: one int per spatial axis; its length is the number of spatial axes.
        strides: None means the window shape.
        padding: as for `MaxPool`, but padded with zeros.
        dilation: distance between the elements of a window.
        ceil_mode: whether the last window may extend past the end if it begins inside.
        count_include_pad: whether the divisor counts padded positions.
        implementation: the kernel that computes the pooling.
    """

    def __init__(
        self,
        window_shape: Sequence[int],
        strides: int | Sequence[int] | None = None,
        *,
        padding: Padding = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        implementation: Implementation = None,
    ):
        self.window_shape = tuple(window_shape)
        self.strides = strides
        self.padding = padding
        self.dilation = dilation
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.implementation = implementation

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps (*batch, *spatial, features) to (*batch, *output spatial, features)."""
        return avg_pool(
            inputs,
            self.window_shape,
            self.strides,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
            implementation=self.implementation,
        )

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns the spatial size of the result for an input of spatial size `size`."""
        return _pooled_size(size, self)


class GlobalAvgPool(nnx.Module):
    """Mean over all spatial axes: (N, *spatial, features) to (N, features)."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return global_avg_pool(inputs)

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns (), since no spatial axis is left."""
        return ()


class AdaptiveAvgPool(nnx.Module):
    """Mean over windows chosen so that the result has size `output_shape` for any input size.

    The windows are those of PyTorch. For input size n and output size m, window i extends from
    floor(i n / m) to ceil((i + 1) n / m).

    Args:
        output_shape: spatial size of the result, one int per axis.
    """

    def __init__(self, output_shape: Sequence[int]):
        self.output_shape = tuple(output_shape)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return adaptive_avg_pool(inputs, self.output_shape)

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns `output_shape` for any `size`."""
        return self.output_shape


class GlobalMaxPool(nnx.Module):
    """Maximum over all spatial axes: (N, *spatial, features) to (N, features)."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return global_max_pool(inputs)

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns (), since no spatial axis is left."""
        return ()


class Flatten(nnx.Module):
    """Reshapes (N, *shape) to (N, product of shape) in row-major order."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return inputs.reshape(inputs.shape[0], math.prod(inputs.shape[1:]))

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns (), since no spatial axis is left."""
        return ()


class Unflatten(nnx.Module):
    """Reshapes (N, product of shape) to (N, *shape), the inverse of `Flatten`.

    Args:
        shape: shape of one example, (*spatial, features).
    """

    def __init__(self, shape: Sequence[int]):
        self.shape = tuple(shape)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return inputs.reshape(inputs.shape[0], *self.shape)

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns the spatial part of `shape`."""
        return self.shape[:-1]


def _pooled_size(size: Sequence[int], pool: Any) -> tuple[int, ...]:
    """Returns the spatial size after pooling; raises ValueError if the window does not fit."""
    x = jax.ShapeDtypeStruct((1, *size, 1), jnp.float32)
    window, strides = pool.window_shape, pool.strides
    return make_spec(x, window, strides, pool.padding, pool.dilation, pool.ceil_mode).output_size

"""Defines `BlurPool`, which blurs before it subsamples."""

import math
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnn_jax.errors import UserError
from cnn_jax.ops.convolution import conv
from cnn_jax.ops.types import Implementation


class BlurPool(nnx.Module):
    """Anti-aliased subsampling (Zhang 2019, arXiv:1904.11486). It has no parameters.

    Convolves every channel with a binomial filter, which is the same along all spatial axes, and
    keeps every `stride`-th position. Borders are reflected.

        BlurPool()(jnp.ones((8, 32, 32, 16))).shape == (8, 16, 16, 16)

    Args:
        window: number of taps per axis; 3 gives the filter (1, 2, 1) / 4.
        stride: distance between the positions that are kept, on every axis.
        implementation: the kernel that computes the convolution; see `cnn_jax.conv`.

    Raises:
        ValueError: `window` or `stride` is less than 1.
    """

    def __init__(self, window: int = 3, stride: int = 2, *, implementation: Implementation = None):
        for name, value in (('window', window), ('stride', stride)):
            if value < 1:
                raise UserError(f'{name}={value}: must be at least 1')
        self.window, self.stride = window, stride
        self.implementation = implementation

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, *size, channels) to (batch, *ceil(size / stride), channels).

        Raises:
            ValueError: x has no spatial axis, or one that is too small to be reflected.
        """
        ndim, channels = x.ndim - 2, x.shape[-1]
        if ndim < 1:
            raise UserError(f'x must have shape (batch, *spatial, channels), got {x.shape}')
        taps = [math.comb(self.window - 1, k) / 2 ** (self.window - 1) for k in range(self.window)]
        kernel = reduce(np.multiply.outer, [np.asarray(taps)] * ndim)[..., None, None]
        return conv(
            x,
            jnp.broadcast_to(jnp.asarray(kernel, x.dtype), (*kernel.shape[:-1], channels)),
            strides=self.stride,
            padding=[((self.window - 1) // 2, self.window // 2)] * ndim,
            padding_mode='reflect',
            groups=channels,
            implementation=self.implementation,
        )

    def output_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the spatial size of the result for an input of spatial size `size`."""
        return tuple(-(-n // self.stride) for n in size)

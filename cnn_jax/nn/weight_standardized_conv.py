"""Defines `WeightStandardizedConv`, a convolution with a standardised kernel."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax.errors import UserError
from cnn_jax.nn.conv import Conv
from cnn_jax.ops.spec import accumulator


class WeightStandardizedConv(Conv):
    """A `Conv` with weight standardisation (Qiao et al. 2019, arXiv:1903.10520).

    Convolves with the kernel shifted and scaled, per output channel, to mean 0 and variance 1:

        (kernel - mean) / sqrt(variance + epsilon)

    with the mean and (biased) variance over the window and the input channels of a group. It is
    meant to be followed by a normalisation over few or no examples, such as `nnx.GroupNorm`. A
    `mask` applies to the standardised kernel. Parameters and checkpoints are those of `Conv`.

        WeightStandardizedConv(3, 16, (3, 3), rngs=rngs)(images)      # (8, 32, 32, 3), say

    Args:
        in_features, out_features, kernel_size, strides: as in `Conv`.
        epsilon: added to the variance.
        **options: the other arguments of `Conv`; rngs is required.

    Raises:
        ValueError: an output channel has only one weight, which is 0 when standardised; or
            `epsilon` is negative.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        epsilon: float = 1e-5,
        **options: Any,
    ):
        if epsilon < 0:
            raise UserError(f'epsilon={epsilon}: must be at least 0')
        super().__init__(in_features, out_features, kernel_size, strides, **options)
        if math.prod(self.kernel_shape[:-1]) == 1:
            raise UserError(
                f'kernel_size={kernel_size}: with one input channel per group, an output channel '
                f'has only one weight, which is 0 when standardised; use Conv'
            )
        self.epsilon = epsilon

    def effective_kernel(self) -> jax.Array:
        kernel = self.kernel[...]
        wide = kernel.astype(accumulator(kernel.dtype))
        axes = tuple(range(kernel.ndim - 1))
        centred = wide - wide.mean(axes)
        variance = jnp.square(centred).mean(axes)
        kernel = (centred * jax.lax.rsqrt(variance + self.epsilon)).astype(kernel.dtype)
        return kernel if self.mask is None else kernel * self.mask

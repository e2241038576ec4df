"""Defines `SqueezeExcitation`, which weights channels by what the whole input holds."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from cnn_jax.errors import UserError
from cnn_jax.ops.pool import global_avg_pool


class SqueezeExcitation(nnx.Module):
    """Squeeze-and-excitation: a gate per example and channel (Hu et al. 2018, arXiv:1709.01507).

        y = x * gate(fc2(act(fc1(mean of x over all positions))))

        block = SqueezeExcitation(16, 4, rngs=rngs)
        block(jnp.ones((8, 32, 32, 16))).shape == (8, 32, 32, 16)

    Args:
        channels: number of channels of the input.
        hidden: number of hidden units; the paper uses channels // 16.
        act: activation of the hidden units.
        gate: maps the result of `fc2` to the gate. MobileNetV3 uses `nnx.hard_sigmoid`.
        dtype: dtype of the computation; None means the promoted dtype of input and parameters.
        rngs: random streams for the initialisers.

    Raises:
        ValueError: `channels` or `hidden` is less than 1.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        act: Callable[[jax.Array], jax.Array] = nnx.relu,
        gate: Callable[[jax.Array], jax.Array] = nnx.sigmoid,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        for name, value in (('channels', channels), ('hidden', hidden)):
            if value < 1:
                raise UserError(f'{name}={value}: must be at least 1')
        self.fc1 = nnx.Linear(channels, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, channels, dtype=dtype, rngs=rngs)
        self.act, self.gate = act, gate

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (batch, *spatial, channels) to an array of the same shape.

        Raises:
            ValueError: x does not have a batch axis, spatial axes and `channels` channels.
        """
        if x.ndim < 3 or x.shape[-1] != self.fc1.in_features:
            raise UserError(
                f'x must have shape (batch, *spatial, {self.fc1.in_features}), got {x.shape}'
            )
        squeezed = global_avg_pool(x, x.ndim - 2, keepdims=True)
        return x * self.gate(self.fc2(self.act(self.fc1(squeezed))))

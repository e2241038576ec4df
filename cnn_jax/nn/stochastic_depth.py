"""Defines `StochasticDepth`, which drops a residual branch for some of the examples."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.errors import UserError


class StochasticDepth(nnx.Dropout):
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382) of a residual branch.

    In training, sets all values of an example to 0 with probability `rate`, and divides those of
    the other examples by `1 - rate`, which keeps the expectation. In evaluation, returns its input.
    It is switched between them like `nnx.Dropout`: by `model.train()`, `model.eval()` or
    `deterministic`.

        x + drop(branch(x))    # with drop = StochasticDepth(0.1, rngs=rngs)

    Args:
        rate: probability that the branch of an example is dropped, in [0, 1].
        **flax: the other arguments of `nnx.Dropout` (deterministic, rng_collection, rngs), but for
            `broadcast_dims`.

    Raises:
        ValueError: `rate` is not in [0, 1].
    """

    def __init__(self, rate: float, **flax: Any):
        if not 0 <= rate <= 1:
            raise UserError(f'rate={rate}: must be in [0, 1]')
        if 'broadcast_dims' in flax:
            raise UserError('broadcast_dims: is not an argument; one draw serves a whole example')
        super().__init__(rate, **flax)

    def __call__(self, inputs: jax.Array, **flax: Any) -> jax.Array:
        """Maps (batch, ...) to an array of the same shape; `**flax` as for `nnx.Dropout`."""
        one = jnp.ones((inputs.shape[0], *[1] * (inputs.ndim - 1)), inputs.dtype)
        return inputs * super().__call__(one, **flax)

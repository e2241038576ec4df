"""Defines `GhostBatchNorm`, batch normalisation over fixed groups of examples."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.errors import UserError

_UNSUPPORTED = ('axis', 'axis_name', 'axis_index_groups')


class GhostBatchNorm(nnx.BatchNorm):
    """Ghost batch normalisation (Hoffer, Hubara and Soudry 2017, arXiv:1705.08741).

    In training, normalises every group of `group_size` consecutive examples with the statistics of
    that group. The result therefore does not depend on the number of devices, and the normalisation
    needs no communication if every device holds whole groups. If a group spans several devices,
    they communicate among themselves. The running statistics are averages over the groups.
    Evaluation, parameters and statistics are those of `nnx.BatchNorm`, so their checkpoints can be
    exchanged.

        GhostBatchNorm(16, group_size=32, rngs=rngs)(jnp.ones((128, 8, 8, 16)))    # 4 groups

    Args:
        num_features: number of channels.
        group_size: number of examples per group.
        use_fast_variance: whether to compute the variance as the mean of the squares minus the
            square of the mean. Both means take one all-reduce between devices instead of two, but
            digits are lost if the mean is large. Flax's default is True.
        **flax: the other arguments of `nnx.BatchNorm` (momentum, epsilon, dtype, use_bias, ...;
            rngs is required), but for `axis`, `axis_name` and `axis_index_groups`. The channels
            are the last axis.

    Raises:
        ValueError: `group_size` is less than 1, or an argument is not supported.
    """

    def __init__(
        self, num_features: int, *, group_size: int, use_fast_variance: bool = False, **flax: Any
    ):
        if group_size < 1:
            raise UserError(f'group_size={group_size}: must be at least 1')
        if bad := [name for name in _UNSUPPORTED if name in flax]:
            raise UserError(f'{bad[0]}={flax[bad[0]]!r}: is not supported; channels come last')
        super().__init__(num_features, use_fast_variance=use_fast_variance, **flax)
        self.group_size = group_size

    def __call__(  # type: ignore[override]  # without Flax's `mask`
        self, x: jax.Array, use_running_average: bool | None = None
    ) -> jax.Array:
        """Maps (batch, *spatial, features) to an array of the same shape.

        Statistics are computed in float32, or in the dtype of x if that is wider.

        Raises:
            ValueError: in training, the batch is not a multiple of `group_size`.
        """
        if use_running_average is None:
            use_running_average = self.use_running_average
        if use_running_average:
            return super().__call__(x, use_running_average=True)
        n, size = x.shape[0], self.group_size
        if n % size:
            raise UserError(f'x has a batch of {n}; must be a multiple of group_size={size}')
        dtype = self.dtype or jnp.result_type(x, self.mean[...])
        wide = jnp.promote_types(x.dtype, jnp.float32)
        groups = x.reshape(n // size, size, *x.shape[1:]).astype(wide)
        axes = tuple(range(1, groups.ndim - 1))
        mean = groups.mean(axes, keepdims=True)
        if self.use_fast_variance:
            square = jnp.square(groups).mean(axes, keepdims=True)
            var = jnp.maximum(0, square - jnp.square(mean))
        else:
            var = jnp.square(groups - mean).mean(axes, keepdims=True)
        for running, new in ((self.mean, mean), (self.var, var)):
            average = jax.lax.stop_gradient(new.reshape(n // size, -1).mean(0))
            kept = self.momentum * running[...] + (1 - self.momentum) * average
            running[...] = kept.astype(running[...].dtype)
        y = (groups - mean) * jax.lax.rsqrt(var + self.epsilon)
        if self.scale is not None:
            y = y * self.scale[...]
        if self.bias is not None:
            y = y + self.bias[...]
        return y.reshape(x.shape).astype(dtype)

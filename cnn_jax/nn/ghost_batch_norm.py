"""Defines `GhostBatchNorm`, batch normalisation over fixed groups of examples."""

from typing import Any

import jax

from cnn_jax.errors import UserError
from cnn_jax.nn.batch_norm import BatchNorm
from cnn_jax.ops.normalization import Statistics, average_over, normalize

_UNSUPPORTED = ('axis', 'axis_name', 'axis_index_groups')


class GhostBatchNorm(BatchNorm):
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
        ValueError: `group_size` is less than 1, or an argument is not supported. In training, a
            call raises it if the batch is not a multiple of `group_size`.
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
        """Maps (batch, *spatial, features) to an array of the same shape."""
        return super().__call__(x, use_running_average)

    def _normalize(
        self, x: jax.Array, scale: jax.Array, bias: jax.Array
    ) -> tuple[jax.Array, Statistics]:
        n, size = x.shape[0], self.group_size
        if n % size:
            raise UserError(f'x has a batch of {n}; must be a multiple of group_size={size}')
        groups = x.reshape(n // size, size, *x.shape[1:])
        average = average_over(range(1, groups.ndim - 1))
        y, statistics = normalize(
            groups, scale, bias, average, self.epsilon, self.use_fast_variance
        )
        of_groups = (s.reshape(n // size, -1).mean(0) for s in statistics)
        return y.reshape(x.shape), Statistics(*of_groups)

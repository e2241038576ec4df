"""Normalises an array by its own statistics (Ioffe and Szegedy 2015, arXiv:1502.03167)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Statistics(NamedTuple):
    """The mean and the (biased) variance, with axes of size 1 where the input was reduced."""

    mean: jax.Array
    var: jax.Array


def normalize(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    average: Callable[..., Sequence[jax.Array]],
    epsilon: float,
    use_fast_variance: bool,
) -> tuple[jax.Array, Statistics]:
    """Returns `(x - mean) / sqrt(var + epsilon) * scale + bias`, and the statistics of x.

    Args:
        x: array of real numbers.
        scale, bias: arrays that broadcast to x.
        average: function of several arrays of the shape of x that returns the mean of each, with
            axes of size 1.
        use_fast_variance: whether to compute the variance as the mean of the squares minus the
            square of the mean. Both means are then computed at once, but digits are lost where the
            mean is large.

    Returns:
        Arrays of float32, or of the dtype of x if that is wider.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if use_fast_variance:
        mean, square = average(x, jnp.square(x))
        var = jnp.maximum(0, square - jnp.square(mean))  # rounding could make it negative
        # Written as a product and a sum of x itself, this needs two sums of its cotangent, with and
        # without a factor x. With (x - mean), it would need three, two of them over intermediate
        # arrays, which XLA:CPU writes to memory.
        factor = lax.rsqrt(var + epsilon) * scale
        return x * factor + (bias - mean * factor), Statistics(mean, var)
    (mean,) = average(x)
    centred = x - mean
    (var,) = average(jnp.square(centred))
    return centred * (lax.rsqrt(var + epsilon) * scale) + bias, Statistics(mean, var)


def average_over(
    axes: Sequence[int],
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Sequence[Sequence[int]] | None = None,
) -> Callable[..., Sequence[jax.Array]]:
    """Returns a function for `normalize`.

    Args:
        axes: axes of the arrays.
        axis_name: axes of `pmap` or `shard_map` to average over as well.
        axis_index_groups: groups of indices along them, as of `lax.pmean`.
    """

    def average(*arrays: jax.Array) -> Sequence[jax.Array]:
        means = [a.mean(tuple(axes), keepdims=True) for a in arrays]
        if axis_name is None:
            return means
        # One collective instead of several.
        stacked = lax.pmean(jnp.stack(means), axis_name, axis_index_groups=axis_index_groups)
        return list(stacked)

    return average

"""Defines `Concat`, which joins the results of several branches along the channels."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from cnn_jax.errors import UserError
from cnn_jax.nn.layers import Intermediates, Layers


class Concat(Layers):
    """Applies every branch to the same input and joins their results along the last axis.

    This is the block of Inception (Szegedy et al. 2015, arXiv:1409.4842, figure 2) and, with
    `jax.nn.identity` as one branch, of DenseNet (Huang et al. 2017, arXiv:1608.06993, equation 2).

        block = Concat({'x': jax.nn.identity, 'new': Conv(3, 5, (3, 3), rngs=rngs)})
        block(jnp.ones((2, 8, 8, 3))).shape == (2, 8, 8, 8)

    Args:
        layers: mapping from names to branches, which are modules or functions of one array, as for
            `Layers`. The channels of the result are in the order of the branches.

    Raises:
        ValueError: there is no branch, or `Layers` does not take a name.
    """

    def __init__(self, layers: Mapping[str, Callable[..., jax.Array]]):
        super().__init__(layers)
        if not self.layer_names:
            raise UserError('layers={}: must have at least one branch')

    def __call__(self, x: jax.Array, intermediates: Intermediates | None = None) -> jax.Array:
        """Maps (batch, *spatial, channels) to (batch, *output spatial, sum of channels).

        Raises:
            ValueError: the branches' results differ in an axis other than the last.
        """
        results = [self._apply(name, x, intermediates) for name in self.layer_names]
        if len({y.shape[:-1] for y in results}) > 1:
            shapes = (f'{n} {y.shape}' for n, y in zip(self.layer_names, results, strict=True))
            raise UserError(f'branches differ in more than channels: {", ".join(shapes)}')
        return jnp.concatenate(results, axis=-1)

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns the spatial size of the result for an input of spatial size `size`.

        Raises:
            ValueError: a window does not fit, or the branches' sizes differ.
        """
        sizes = {name: self._size(name, tuple(size)) for name in self.layer_names}
        if len(set(sizes.values())) > 1:
            listed = ', '.join(f'{name} {after}' for name, after in sizes.items())
            raise UserError(f'branches have different sizes: {listed}')
        return sizes[self.layer_names[0]]

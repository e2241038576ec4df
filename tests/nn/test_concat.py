"""Tests of `Concat`, against NumPy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import nn


def branches():
    rngs = nnx.Rngs(0)
    new = {'conv': nn.Conv(3, 5, (3, 3), rngs=rngs), 'relu': nnx.relu}
    return nn.Concat({'inputs': jax.nn.identity, 'new': nn.Layers(new)})


def test_branches_are_joined_in_order_and_recorded():
    block, maps = branches(), {}
    x = np.random.default_rng(0).standard_normal((2, 6, 7, 3)).astype(np.float32)
    y = block(x, maps)
    assert y.shape == (2, 6, 7, 8) and block.output_size((6, 7)) == (6, 7)
    np.testing.assert_array_equal(y[..., :3], x)
    np.testing.assert_array_equal(y[..., 3:], np.maximum(block.new.conv(x), 0))
    assert list(maps) == ['inputs', 'new.conv', 'new.relu', 'new']
    np.testing.assert_array_equal(maps['new'], y[..., 3:])


def test_the_gradient_is_the_sum_over_branches():
    block = nn.Concat({'double': lambda x: 2 * x, 'square': jnp.square})
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4, 2)), jnp.float32)
    weight = jnp.arange(4.0)
    gradient = jax.grad(lambda x: (block(x) * weight).sum())(x)
    np.testing.assert_allclose(gradient, 2 * weight[:2] + 2 * x * weight[2:], rtol=1e-6)


@pytest.mark.parametrize('shape', [(0, 4, 4, 3), (1, 1, 1, 3)])
def test_empty_batches_and_single_pixels(shape):
    assert branches()(jnp.zeros(shape)).shape == (*shape[:-1], 8)


def test_branches_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match='at least one branch'):
        nn.Concat({})
    block = nn.Concat({'same': jax.nn.identity, 'half': nn.MaxPool((2, 2))})
    with pytest.raises(ValueError, match=r'sizes: same \(4, 6\), half \(2, 3\)'):
        block.output_size((4, 6))
    with pytest.raises(ValueError, match=r'same \(1, 4, 6, 2\), half \(1, 2, 3, 2\)'):
        block(jnp.zeros((1, 4, 6, 2)))
    inner = nn.Layers({'block': nn.Concat({'pool': nn.MaxPool((5, 5))})})
    with pytest.raises(ValueError, match='layer block: layer pool: '):
        inner.output_size((4, 6))

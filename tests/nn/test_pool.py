"""Tests of pooling modules against Flax's functions and small results computed by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import nn

X = np.random.default_rng(0).standard_normal((2, 9, 8, 3)).astype(np.float32)


@pytest.mark.parametrize(('ours', 'flax'), [(nn.MaxPool, nnx.max_pool), (nn.AvgPool, nnx.avg_pool)])
@pytest.mark.parametrize(
    ('window', 'strides', 'padding'),
    [((2, 2), None, 0), ((3, 2), (2, 1), 1), ((3, 3), (2, 2), 'SAME')],
)
def test_pool_equals_flax(ours, flax, window, strides, padding):
    layer = ours(window, strides, padding=padding)
    expected = flax(
        X,
        window,
        strides=strides or window,
        padding=[(padding, padding)] * 2 if isinstance(padding, int) else padding,
    )
    y = layer(X)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    assert layer.output_size((9, 8)) == y.shape[1:-1]


def test_ceil_mode_keeps_the_last_incomplete_window():
    x = jnp.arange(5.0).reshape(1, 5, 1)
    layer = nn.MaxPool((2,), ceil_mode=True)
    np.testing.assert_array_equal(layer(x)[0, :, 0], [1, 3, 4])
    assert layer.output_size((5,)) == (3,)
    assert nn.MaxPool((2,)).output_size((5,)) == (2,)


def test_average_without_padding_in_the_divisor():
    layer = nn.AvgPool((3,), 1, padding=1, count_include_pad=False)
    np.testing.assert_allclose(layer(jnp.array([[[3.0], [6.0]]]))[0, :, 0], [4.5, 4.5])


def test_global_pools_and_flatten():
    np.testing.assert_allclose(nn.GlobalAvgPool()(X), X.mean((1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(nn.GlobalMaxPool()(X), X.max((1, 2)))
    np.testing.assert_array_equal(nn.Flatten()(X), X.reshape(2, -1))
    assert nn.Flatten()(X[:0]).shape == (0, 9 * 8 * 3)

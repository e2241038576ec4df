"""Tests of Layers: order, feature maps by name, sizes."""

import jax.numpy as jnp
import pytest
from flax import nnx

from cnn_jax import nn


def chain():
    inner = nn.Layers({'conv': nn.Conv(1, 2, (3, 3), rngs=nnx.Rngs(0)), 'relu': nnx.relu})
    return nn.Layers({'double': lambda x: 2 * x, 'block': inner, 'pool': nn.MaxPool((2, 2))})


def test_feature_maps_are_recorded_by_name_in_order():
    layers, maps = chain(), {}
    x = jnp.ones((1, 6, 6, 1))
    y = layers(x, maps)
    assert list(maps) == ['double', 'block.conv', 'block.relu', 'block', 'pool']
    assert (maps['double'] == 2).all()
    assert (maps['block.relu'] == nnx.relu(layers.block.conv(2 * x))).all()
    assert maps['pool'] is y and (layers(x) == y).all()


def test_parameters_are_found_by_name():
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(chain(), nnx.Param))]
    assert paths == [('block', 'conv', 'bias'), ('block', 'conv', 'kernel')]


def test_sizes_follow_the_layers():
    layers = chain()
    assert layers.output_size((6, 5)) == (3, 2)
    assert nn.sizes.smallest_size(layers.output_size, 2) == 2
    with pytest.raises(ValueError, match='layer pool: .*window'):
        layers.output_size((1, 6))


def test_nothing_fits_where_no_size_does():
    layers = nn.Layers({'crop': nn.Conv(1, 1, (3,), padding=((-9000, 0),), rngs=nnx.Rngs(0))})
    assert nn.sizes.smallest_size(layers.output_size, 1) is None


@pytest.mark.parametrize('name', ['train', 'items', '3rd', 'a.b', ''])
def test_impossible_names_are_refused(name):
    with pytest.raises(ValueError, match='cannot be named'):
        nn.Layers({name: nnx.relu})

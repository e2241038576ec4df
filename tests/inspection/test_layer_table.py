"""The table of layers for subclasses of convolutions, and for layers that convolve within."""

import pytest
from flax import nnx

from cnn_jax import models, nn
from cnn_jax.inspection import flops, layer_table
from cnn_jax.models.base import Classifier


class Same(nn.Conv):
    """Has no `__call__` of its own."""


class Scaled(nn.Conv):
    """Calls that of its base class."""

    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


def make(first=nn.Conv, second=nn.Conv, between=None):
    rngs = nnx.Rngs(0)
    layers = {
        'a': first(3, 8, (3, 3), padding=((1, 1), (1, 1)), rngs=rngs),
        'between': between or nnx.relu,
        'b': second(8, 8, (5, 5), padding=((2, 2), (2, 2)), rngs=rngs),
        'c': nn.Conv(8, 4, (1, 1), rngs=rngs),
        'flatten': nn.Flatten(),
    }
    return Classifier(nn.Layers(layers), (8, 8, 3), 4)


def interesting(rows):
    return {
        row.layer.name: (row.padding, row.layer.macs, row.layer.parameters, row.field, row.kernel)
        for row in rows
        if row.layer.window
    }


@pytest.mark.parametrize('kinds', [(Same, nn.Conv), (nn.Conv, Same), (Scaled, nn.Conv)])
def test_a_subclass_is_a_convolution(kinds):
    calls = [kind.__call__ for kind in kinds]
    found = interesting(layer_table.rows(make(*kinds), (8, 8, 3)))
    assert found == interesting(layer_table.rows(make(), (8, 8, 3)))
    assert [padding[0] for padding, *_ in found.values()] == [(1, 1), (2, 2), (0, 0)]
    assert calls == [kind.__call__ for kind in kinds] and '__call__' not in vars(Same)


def test_a_convolution_of_flax_keeps_its_kernel_and_field():
    found = interesting(layer_table.rows(make(nnx.Conv), (8, 8, 3)))
    own = interesting(layer_table.rows(make(), (8, 8, 3)))
    assert found['a'][:-1] == own['a'][:-1] and found['a'][-1] == 'lax'
    assert found['b'] == own['b']


def test_a_layer_that_convolves_within_is_no_convolution():
    found = interesting(layer_table.rows(make(between=nn.BlurPool(3, 1)), (8, 8, 3)))
    for name, own in interesting(layer_table.rows(make(), (8, 8, 3))).items():
        assert (found[name][:3], found[name][-1]) == (own[:3], own[-1])
    assert found['a'][3].size == 3 and found['b'][3] is None  # the field of the filter is not known


@pytest.mark.skipif(not hasattr(nnx, 'SpectralNorm'), reason='new in flax 0.12')
def test_a_wrapped_convolution_has_the_size_and_field_of_the_convolution():
    rngs = nnx.Rngs(0)
    wrapped = nnx.SpectralNorm(nn.Conv(8, 8, (3, 3), strides=2, rngs=rngs), rngs=rngs)
    model = make(between=wrapped)
    assert nn.Layers({'wrapped': wrapped}).output_size((8, 8)) == (4, 4)
    rows = {row.layer.name: row for row in layer_table.rows(model, (8, 8, 3))}
    row = rows['between.layer_instance']
    assert row.layer.output_shape == (4, 4, 8) and row.padding == ((0, 1), (0, 1))
    assert row.layer.macs == 4 * 4 * 9 * 64 and row.field.size == 5 and rows['b'].field.size == 13


def test_a_dense_layer_on_maps_is_a_convolution_of_window_1():
    found = interesting(
        layer_table.rows(make(between=nnx.Linear(8, 8, rngs=nnx.Rngs(0))), (8, 8, 3))
    )
    assert [row[3].size for row in found.values()] == [3, 7, 7]


def test_long_names_keep_their_column():
    model = nnx.eval_shape(
        lambda: models.create(
            'convnext_tiny', input_shape=(64, 64, 3), num_classes=10, rngs=nnx.Rngs(0)
        )
    )
    head, *lines, _, _ = layer_table.text(layer_table.rows(model, (64, 64, 3))).splitlines()
    assert all(line[head.index('type') - 1] == ' ' for line in lines)
    assert all(line[head.index('type')] != ' ' for line in lines)


def test_a_layer_called_twice_has_two_rows():
    conv = nn.Conv(3, 3, (3, 3), rngs=nnx.Rngs(0))

    class Twice(nnx.Module):
        def __init__(self):
            self.conv = conv

        def __call__(self, x):
            return self.conv(self.conv(x)[:, ::2])

    first, second = flops.summary(Twice(), (4, 4, 3))
    assert (first.parameters, second.parameters) == (84, 0)
    assert second.input_shape == (2, 4, 3) and first.macs == 2 * second.macs

"""The content of the page that explains a network, against float64, differences, and its limits."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.inspection import attribution, flops
from cnn_jax.inspection.page import agreement, content, document, layers
from cnn_jax.models.base import Classifier

SHAPE = (11, 9, 2)


def network(seed=0) -> Classifier:
    """A chain with strides, dilation, groups, uneven padding, a residual block and three pools."""
    rngs = nnx.Rngs(seed)
    conv = lambda *a, **k: nn.Conv(*a, rngs=rngs, bias_init=nnx.initializers.normal(1.0), **k)  # noqa: E731
    block = {'conv': conv(8, 8, (3, 3)), 'relu': nnx.relu, 'grouped': conv(8, 8, (1, 3),
             feature_group_count=4)}  # fmt: skip
    chain = {
        'conv1': conv(2, 8, (3, 2), strides=(2, 1), padding=((2, 0), (0, 1))),
        'norm': nnx.BatchNorm(8, rngs=rngs),
        'relu1': nnx.relu,
        'max': nn.MaxPool((3, 2), (1, 2), padding=1),
        'block': nn.Residual(block, nn.Layers({'conv': conv(8, 8, (1, 1))}), nnx.relu),
        'flax': nnx.Conv(8, 6, (3, 3), kernel_dilation=2, use_bias=False, rngs=rngs),
        'tanh': jnp.tanh,
        'mean': nn.AvgPool((2, 2), 1, padding=1, count_include_pad=False),
        'pool': nn.GlobalAvgPool(),
        'logits': nnx.Linear(6, 3, rngs=rngs),
    }
    model = Classifier(nn.Layers(chain), SHAPE, 3)
    model.eval()
    return model


def inputs(count=2, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)


def about(count=2):
    images = np.zeros((count, 2, 2), np.uint8)
    return {
        'examples': [{'name': f'<{n}>', 'label': None, 'image': i} for n, i in enumerate(images)]
    }


@pytest.fixture(scope='module')
def model():
    return network()


@pytest.fixture(scope='module')
def recorded(model):
    return content.record(model, inputs())


def test_layers_are_in_order_with_what_they_read(recorded):
    sources = {layer.name: layer.source for layer in recorded.layers}
    assert sources == {
        'conv1': 'input', 'norm': 'conv1', 'relu1': 'norm', 'max': 'relu1',
        'block.conv': 'max', 'block.relu': 'block.conv', 'block.grouped': 'block.relu',
        'block.shortcut.conv': 'max', 'block': 'max', 'flax': 'block', 'tanh': 'flax',
        'mean': 'tanh', 'pool': 'mean', 'logits': 'pool',
    }  # fmt: skip
    assert list(sources)[4:9] == ['block.conv', 'block.relu', 'block.grouped',
                                  'block.shortcut.conv', 'block']  # fmt: skip
    assert {name: w.kind for name, w in recorded.windows.items()} == {
        'conv1': 'convolution', 'max': 'maximum', 'block.conv': 'convolution',
        'block.grouped': 'convolution', 'block.shortcut.conv': 'convolution',
        'flax': 'convolution', 'mean': 'mean', 'pool': 'mean',
    }  # fmt: skip


def test_branches_read_the_same_and_stages_do_not_compute():
    branches = nn.Concat({'one': nn.Layers({'relu': nnx.relu, 'tanh': jnp.tanh}), 'two': jnp.sin})
    chain = nn.Layers({'stage': nn.Layers({'a': jnp.cos}), 'both': branches, 'last': jnp.cos})
    found = [(layer.name, layer.source) for layer in layers.in_order(chain)]
    assert found == [
        ('stage.a', 'input'), ('both.one.relu', 'stage.a'), ('both.one.tanh', 'both.one.relu'),
        ('both.two', 'stage.a'), ('both', 'stage.a'), ('last', 'both'),
    ]  # fmt: skip


class Twice(nn.Conv):
    def __call__(self, inputs):
        return 2 * super().__call__(inputs)


@pytest.mark.parametrize(
    'kind, options',
    [
        (Twice, {}),
        (nn.Conv, {'padding_mode': 'reflect', 'padding': 1}),
        (nn.Conv, {'padding': -1}),
        (nn.Conv, {'input_dilation': 2}),
        (nn.ConvTranspose, {}),
    ],
)
def test_convolutions_that_the_page_does_not_explain(kind, options):
    module = kind(2, 3, (3, 3), rngs=nnx.Rngs(0), **options)
    assert layers.windows(module, SHAPE) is None
    assert layers.windows(nn.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0)), SHAPE) is not None


@pytest.mark.parametrize('name', ['conv1', 'block.conv', 'block.grouped', 'flax'])
def test_windows_give_the_layers_result(recorded, name):
    layer = next(layer for layer in recorded.layers if layer.name == name)
    maps, x = recorded.maps[name], recorded.maps[layer.source]
    kernel, bias = layers.kernel_and_bias(layer.module)
    windows = recorded.windows[name]
    found = [
        agreement.in_float64(x, kernel, bias, windows, place) for place in np.ndindex(*maps.shape)
    ]
    np.testing.assert_allclose(np.reshape(found, maps.shape), maps, atol=1e-5, rtol=1e-5)


def test_every_kernel_agrees_and_says_by_how_much(recorded):
    checks = content.checks(recorded, 'block.conv')
    maps = recorded.maps['block.conv']
    assert [c['why'] for c in checks] == ['maximum', 'minimum', 'strongest gradient'] * 2
    for check in checks:
        position, exact = tuple(check['position']), float(check['float64'])
        assert np.float32(check['network']) == maps[position]
        names = [name for name, *_ in check['kernels']]
        assert {'lax', 'scan', 'im2col', 'winograd', 'fft', 'shift'} <= set(names)
        for _, value, difference in check['kernels']:
            assert abs(float(value) - exact) < 1e-4
            assert float(difference) == pytest.approx(float(np.float32(value)) - exact, rel=0.01)
    assert maps[tuple(checks[3]['position'])] == maps[1].max()


@pytest.mark.parametrize('name', ['conv1', 'max', 'mean'])
def test_gradients_are_central_differences(model, recorded, name):
    _, back = attribution.split(model, name)
    classes, maps = recorded.logits.argmax(-1), recorded.maps[name]
    chance = np.random.default_rng(2)
    for _ in range(4):
        place = tuple(chance.integers(0, n) for n in maps.shape)
        step = np.zeros_like(maps)
        step[place] = 1e-3
        up, down = (back(maps + sign * step)[place[0], classes[place[0]]] for sign in (1, -1))
        expected = float(up - down) / 2e-3
        assert recorded.gradients[name][place] == pytest.approx(expected, abs=1e-4)


def test_what_is_stored_gives_every_number(recorded, model):
    made = content.make(recorded, flops.summary(model))
    found = {layer['name']: layer for layer in made['layers']}
    assert found['relu1']['maps'] == 'norm' and found['norm']['maps'] is recorded.maps['norm']
    assert sum(layer['parameters'] for layer in found.values()) == flops.parameters(model)
    few = content.make(recorded, flops.summary(model), ['conv1'])
    stored = {layer['name']: layer['maps'] for layer in few['layers']}
    assert stored['conv1'] is recorded.maps['conv1'] and 'levels' in stored['norm']
    assert [layer['name'] for layer in few['layers'] if 'windows' in layer] == ['conv1']
    maps, near = recorded.maps['tanh'], stored['tanh']
    assert np.abs(near['low'] + near['step'] * near['levels'] - maps).max() <= 0.51 * near['step']


def test_a_large_network_is_shown_in_part(recorded, model):
    rows = flops.summary(model)
    whole = len(document.render(content.make(recorded, rows)))
    one, notes = document.fitting(recorded, rows, about(), whole - 1)
    assert len(one.encode()) < whole and len(notes) == 1
    assert notes[0].startswith('1 of the inputs') and '<0>' not in one and '\\u003c0>' in one
    few, notes = document.fitting(recorded, rows, about(), len(one.encode()) * 7 // 8)
    assert len(few.encode()) < len(one.encode())
    assert 'have pictures alone' in notes[1] and '256 levels' in notes[2]
    with pytest.raises(UserError, match='too large for a page of 0.01 MB'):
        document.fitting(recorded, rows, about(), 10**4)


def test_a_model_that_is_no_chain_is_refused():
    with pytest.raises(UserError, match='Linear is not a chain of layers'):
        content.record(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), inputs())

"""Tests that the networks whose training steps are timed are the same on every side."""

import importlib.util
import json
import math

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from cnn_jax import errors
from cnn_jax.bench.steps import compare, jax_side, registered
from cnn_jax.bench.steps.networks import NETWORKS, Network
from cnn_jax.inspection import flops

has_torch = pytest.mark.skipif(
    importlib.util.find_spec('torch') is None, reason='needs the extra compare'
)
has_torchvision = pytest.mark.skipif(
    importlib.util.find_spec('torchvision') is None, reason='needs the extra compare'
)

CONV = ('conv', 4, [3, 3], [1, 1], 1, True)
TINY = {
    'image': Network(
        'every layer of images',
        (4, 8, 8, 2),
        3,
        [
            CONV, ('batch_norm',), ('relu',), ('conv', 4, [3, 3], [2, 2], 2, False),
            ('residual', [CONV], []), ('residual', [CONV], [CONV]), ('max_pool', [2, 2]),
            ('deconv', 3, [4, 4], [2, 2]), ('flatten',), ('dense', 8), ('unflatten', [2, 2, 2]),
            ('global_avg',), ('dense', 3),
        ],
    ),
    'text': Network(
        'every layer of texts',
        (4, 9),
        2,
        [('embed', 20, 6), ('parallel', [[('conv', 5, [3], [1], 1, True), ('global_max',)]] * 2)],
        tokens=20,
    ),
}  # fmt: skip


def losses(network, library):
    state, step = jax_side.make_step(network, 'float32', library)
    count = sum(leaf.size for leaf in jax.tree.leaves(state[0]))
    found = []
    for _ in range(3):
        state, loss = step(state, *jax_side.batch(network))
        found.append(float(loss))
    return count, found


def task(network, library):
    made = {'dtype': 'float32', 'library': library, 'seconds': 0.0, 'network': network._asdict()}
    return json.loads(json.dumps(made))


@pytest.mark.parametrize('name', TINY)
def test_flax_and_cnn_jax_learn_alike(name):
    ours, theirs = (losses(TINY[name], library) for library in ('cnn_jax', 'flax'))
    assert ours[0] == theirs[0]
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5)
    assert ours[1][2] < ours[1][0]


@has_torch
@pytest.mark.parametrize('name', TINY)
def test_torch_builds_the_same_network(name):
    from cnn_jax.bench.steps import torch_side

    network = TINY[name]
    result = torch_side.run(task(network, 'torch'))
    assert result['parameters'] == losses(network, 'cnn_jax')[0]
    assert result['losses'][2] < result['losses'][0]
    assert len(result['step_s']) == torch_side.FEWEST and result['memory_bytes'] > 1e7


@pytest.mark.parametrize(
    ('name', 'parameters'),
    [('vgg16', 14_728_266 - 4_224), ('resnet18', 11_173_962), ('textcnn', 6_150_902)],
)
def test_sizes_are_those_of_the_architectures(name, parameters):
    # VGG's published count includes biases before batch norm (one for each of 4,224 features).
    network = NETWORKS[name]
    state, _ = jax.eval_shape(lambda: (jax_side.make_step(network, 'float32', 'cnn_jax')[0], 0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state[0])) == parameters


def result(step_ms, **more):
    values = {'losses': [1.0, 0.9, 0.8], 'compile_s': 1.0, 'parameters': 7, 'memory_bytes': 2e6}
    return values | {'step_s': [step_ms / 1e3] * 2} | more


def test_summary_and_table(tmp_path):
    key = ('m5', 'float32')
    results = [((*key, 'native'), result(ms)) for ms in (10, 30, 20)]
    results += [((*key, 'flax'), result(40)), ((*key, 'torch'), result(25, losses=[5, 4, 3]))]
    sums = compare.summary(results)
    assert sums[*key, 'native']['step_ms'] == pytest.approx(20)
    assert sums[*key, 'native']['spread_ms'] == pytest.approx(20)
    text = compare.table(sums)
    assert '2.00x' in text and '1.25x' in text
    compare.bars(sums, tmp_path / 's.png')
    assert imread(tmp_path / 's.png').std() > 0.01


@pytest.mark.parametrize('wrong', [{'parameters': 8}, {'losses': [1.1, 0.9, 0.8]}])
def test_sides_that_differ_are_an_error(wrong):
    key = ('m5', 'float32')
    with pytest.raises(ValueError, match='parameters|first loss'):
        compare.summary([((*key, 'native'), result(1)), ((*key, 'flax'), result(1, **wrong))])


@pytest.mark.parametrize(
    'dtypes, sides, message',
    [
        (['float32', 'half'], ['flax'], "unknown dtype 'half'"),
        (['float32'], ['flax', 'nope'], "unknown side 'nope'; must be one of native, pure"),
    ],
)
def test_unknown_names_are_found_before_anything_is_timed(dtypes, sides, message):
    with pytest.raises(ValueError, match=message):
        next(compare.rounds([TINY['image']], dtypes, sides, 1, 0.1))


@has_torch
@pytest.mark.parametrize(
    ('name', 'image_size', 'classes', 'parameters'),
    [('unet', 16, 0, 31_033_045), ('airbench', 32, 10, 1_971_352)],
)
def test_models_begin_with_the_weights_of_their_functions_in_torch(
    name, image_size, classes, parameters
):
    from cnn_jax.bench.steps import torch_side

    case = registered.case(name, batch_size=2, image_size=image_size, num_classes=classes)
    network = case.network
    ours, theirs = jax_side.run(task(network, 'cnn_jax')), torch_side.run(task(network, 'torch'))
    assert ours['parameters'] == theirs['parameters'] == parameters
    assert ours['device_bytes'] is theirs['device_bytes'] is None  # a CPU does not count them
    np.testing.assert_allclose(ours['losses'], theirs['losses'], rtol=1e-3)


@has_torchvision
@pytest.mark.parametrize('name', sorted({*registered.DEFAULT} - {*registered.FUNCTIONS}))
def test_models_have_the_size_of_their_twins_in_torchvision(name):
    import torch

    from cnn_jax.bench.steps import torch_side

    case = registered.case(name, batch_size=1, image_size=64)
    with torch.device('meta'):
        twin, _ = torch_side.build(case.network.layers, (3, 64, 64))
    assert sum(p.numel() for p in twin.parameters()) == flops.parameters(case.model)


@pytest.mark.parametrize(
    'name, image_size, message',
    [
        ('resnet5', 64, "unknown model 'resnet5'"),
        (
            'vae',
            64,
            'model vae is for the task autoencoder; must be classification or segmentation',
        ),
        ('resnet18', 32, 'model resnet18 has no counterpart in PyTorch for images of 32 pixels'),
        ('unet', 8, 'unet'),
    ],
)
def test_models_without_a_twin_are_an_error(name, image_size, message):
    with pytest.raises(errors.UserError, match=message):
        registered.case(name, batch_size=1, image_size=image_size)


def test_table_of_models():
    row = {'name': 'a', 'parameters': 1234, 'macs': 56_000_000, 'native': 1000.0, 'torch': 1500.0}
    expected = '| `a` | 1,234 | 0.06 G | 1,000 | 1,500 | 1.50 |'
    assert registered.markdown([row]).splitlines()[2] == expected

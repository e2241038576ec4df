"""Tests that the networks whose training steps are timed are the same on every side."""

import importlib.util
import math

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from cnn_jax.bench.steps import compare, jax_side
from cnn_jax.bench.steps.networks import NETWORKS, Network

has_torch = pytest.mark.skipif(
    importlib.util.find_spec('torch') is None, reason='needs the extra compare'
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
    task = network._asdict() | {'dtype': 'float32', 'library': 'torch', 'seconds': 0.0}
    result = torch_side.run(task)
    assert result['parameters'] == losses(network, 'cnn_jax')[0]
    assert result['losses'][2] < result['losses'][0]
    assert len(result['step_s']) == 2 and result['memory_bytes'] > 1e7


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
    'names, dtypes, sides, message',
    [
        (['m5', 'nope'], ['float32'], ['flax'], "unknown network 'nope'; must be one of small_vgg"),
        (['m5'], ['float32', 'half'], ['flax'], "unknown dtype 'half'"),
        (['m5'], ['float32'], ['flax', 'nope'], "unknown side 'nope'; must be one of native, pure"),
    ],
)
def test_unknown_names_are_found_before_anything_is_timed(names, dtypes, sides, message):
    with pytest.raises(ValueError, match=message):
        next(compare.rounds(names, dtypes, sides, 1, 0.1))

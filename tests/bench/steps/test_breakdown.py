"""Tests that the time of a step is divided correctly among kinds of work."""

import importlib
import importlib.util
import json

import pytest
from matplotlib.image import imread

from cnn_jax.bench.steps import breakdown, timeline
from cnn_jax.bench.steps.networks import Network
from cnn_jax.bench.steps.timeline import Span, divide

has_torch = pytest.mark.skipif(
    importlib.util.find_spec('torch') is None, reason='needs the extra compare'
)
MODULES = {'cnn_jax': 'jax_side', 'torch': 'torch_side'}
NETWORK = Network(
    'tiny',
    (8, 16, 16, 3),
    3,
    [
        ('conv', 16, [3, 3], [1, 1], 1, True), ('relu',), ('max_pool', [2, 2]),
        ('conv', 16, [3, 3], [1, 1], 1, False), ('batch_norm',), ('relu',),
        ('deconv', 4, [4, 4], [2, 2]), ('flatten',), ('dense', 32), ('relu',), ('dense', 3),
    ],
)  # fmt: skip


@pytest.mark.parametrize(
    ('spans', 'expected'),
    [
        ([], {timeline.IDLE: 10}),
        # The innermost span counts, and what is outside of the step does not.
        ([(0, -5, 6, 'a'), (0, 1, 3, 'b'), (0, 9, 20, 'a')], {'a': 5, 'b': 2, timeline.IDLE: 3}),
        # Two threads work from 4 to 6, on different things; a waiting thread does not count.
        ([(0, 0, 6, 'a'), (1, 4, 8, 'b'), (2, 0, 9, None)], {'a': 5, 'b': 3, timeline.IDLE: 2}),
        # Overhead inside of work is not work.
        ([(0, 0, 10, 'a'), (0, 2, 4, None)], {'a': 8, timeline.IDLE: 2}),
        # Spans that touch, and that start together.
        ([(0, 0, 5, 'a'), (0, 0, 2, 'b'), (0, 5, 10, 'b')], {'a': 3, 'b': 7, timeline.IDLE: 0}),
    ],
)
def test_time_is_divided_among_threads(spans, expected):
    assert divide([Span(*span) for span in spans], 0, 10) == pytest.approx(expected)


@pytest.mark.parametrize('side', ['cnn_jax', pytest.param('torch', marks=has_torch)])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_real_trace_has_the_work_of_its_layers(side, dtype):
    task = {'dtype': dtype, 'library': side, 'seconds': 0.0, 'network': NETWORK._asdict()}
    run = importlib.import_module(f'cnn_jax.bench.steps.{MODULES[side]}').run
    result = run(json.loads(json.dumps(task | {'traced_steps': 3})))
    assert len(result['parts_s']) == 3
    for parts in result['parts_s']:
        assert set(parts) <= set(timeline.KINDS)
        # An IDLE below zero would mean that spans overlap where they should not.
        assert all(seconds >= -1e-9 for seconds in parts.values())
        expected = {
            *timeline.CONVOLUTIONS, timeline.MATMUL, timeline.NORM, timeline.ELEMENTWISE,
            timeline.POOL, timeline.OPTIMIZER, timeline.REST, timeline.IDLE,
        }  # fmt: skip
        assert {kind for kind, seconds in parts.items() if seconds > 0} >= expected
        assert parts.get(timeline.EMBEDDING, 0) == 0


def result(step_s, parts_s):
    parts = [{timeline.NORM: s / 4, timeline.IDLE: 3 * s / 4} for s in parts_s]
    return {'step_s': [step_s], 'parts_s': parts}


def test_the_parts_of_the_typical_step_sum_to_it(tmp_path):
    key = ('m5', 'float32')
    results = [
        ((*key, 'native'), result(0.010, [0.009, 0.010, 0.012, 9.0])),
        ((*key, 'native'), result(0.020, [0.020])),
        ((*key, 'native'), result(0.009, [0.008])),
        ((*key, 'torch'), result(0.030, [0.032])),
    ]
    sums = breakdown.summary(results)
    ours = sums[*key, 'native']
    assert ours['step_ms'] == pytest.approx(10)
    assert ours['traced_ms'] == pytest.approx(11)
    assert ours['parts_ms'][timeline.NORM] == pytest.approx(11 / 4)
    assert sum(ours['parts_ms'].values()) == pytest.approx(ours['traced_ms'])
    lines = breakdown.table(sums).splitlines()
    assert [line.split()[-2:] for line in lines if line.startswith('norm')] == [['2.75', '8.00']]
    assert '| m5 | cnn_jax, native | 2.8 | 8.2 | 11.0 | 10.0 |' in breakdown.markdown(
        sums, 'float32'
    )
    breakdown.bars(sums, tmp_path / 'parts.png')
    assert imread(tmp_path / 'parts.png').std() > 0.01

"""The same network in JAX and in PyTorch: in float64 they are the same."""

import json
import pathlib
import sys

import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.analysis import twins

pytestmark = pytest.mark.slow

sys.path.insert(0, __file__.rsplit('/', 1)[0])
import scripts  # noqa: E402

pytest.importorskip('torch', reason='needs PyTorch (the extra compare)')


def test_script(tmp_path):
    text = scripts.run(
        'compare_pytorch.py', '--seeds=2', '--steps=6', '--compared_steps=5', f'--output={tmp_path}'
    )
    found = json.loads((tmp_path / 'results.json').read_text())
    for quantity, values in found['differences'].items():
        assert values['float64'] < 1e-12, quantity
        assert values['float32'] < 1e-4, quantity
    assert len(found['results']['jax']['test']) == 2
    assert (tmp_path / 'losses.png').exists() and 'float64 differs by' in text.splitlines()[-1]
    (line,) = scripts.errors('compare_pytorch.py', ('--model=resnet18',))
    assert "model='resnet18': must be one of lecture_cnn, vgg16" in line


@pytest.mark.parametrize(
    ('model', 'options'),
    [
        ('autoencoder', {'features': (4, 8), 'hidden': 4}),
        ('vgg16', {'width': 0.05}),
        ('m5', {'features': (4, 4, 8, 8)}),
        ('textcnn', {'embedding': 6, 'filters': 3}),
    ],
)
def test_networks(model, options, tmp_path, shared_data):
    dataset = data.load(twins.MODELS[model][0], data_dir=shared_data)
    plan = twins.Plan(
        model=model, options=options, seeds=1, steps=2, compared_steps=2, batch_size=4,
        learning_rate=0.01, test_examples=8,
    )  # fmt: skip
    folder = pathlib.Path(tmp_path)
    twins.prepare(folder, plan, dataset)
    sides = {side: twins.run(folder, side) for side in twins.SIDES}
    found = twins.differences(sides['jax'], sides['torch'], [1, 2])
    for quantity, values in found.items():
        assert values['float64'] < 1e-10, quantity
        assert values['float32'] < 1e-2, quantity


def test_relative_differences_are_per_array_unless_an_array_is_nothing():
    large, small = np.full(4, 100.0), np.full(4, 1.0)
    assert twins.relative([large, small * 1.01], [large, small]) == pytest.approx(0.01)
    # An array of rounding: measured against a thousandth of everything (norm 200).
    noise = np.full(4, 1e-9)
    assert twins.relative([large, noise], [large, -noise]) == pytest.approx(4e-9 / 0.2, rel=1e-3)


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    plan = twins.Plan('lecture_cnn', {}, 1, 1, 1, 10**6, 0.1)
    with pytest.raises(ValueError, match='batch_size=1000000: there are only 1442'):
        twins.prepare(tmp_path, plan, data.load('digits'))

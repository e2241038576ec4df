"""Compares the same network in JAX and in PyTorch; in float64 they agree."""

import json
import pathlib
import re

import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.bench.parity import compare as parity
from tools import scripts

pytestmark = pytest.mark.slow


pytest.importorskip('torch', reason='needs PyTorch (the extra compare)')


def test_script(tmp_path):
    text = scripts.run(
        'compare_pytorch.py', '--seeds=2', '--steps=6', '--compared_steps=5', f'--output={tmp_path}'
    )
    found = json.loads((tmp_path / 'results.json').read_text())
    for quantity, values in found['differences'].items():
        assert values['float64'] < 1e-11, quantity  # Winograd rounds more often
        assert values['float32'] < 1e-4, quantity
    assert len(found['results']['jax']['test']) == 2
    assert (tmp_path / 'losses.png').exists() and 'float64 differs by' in text.splitlines()[-1]
    (line,) = scripts.errors('compare_pytorch.py', ('--model=resnet18',))
    assert "model='resnet18': must be one of lecture_cnn, vgg16" in line


def test_whole_processes(tmp_path):
    text = scripts.run(
        'compare_pytorch.py', '--whole=first,again,torch', '--seeds=1', '--epochs=2',
        f'--output={tmp_path}',
    )  # fmt: skip
    sides = json.loads((tmp_path / 'whole.json').read_text())['sides']
    assert list(sides) == ['first', 'again', 'torch']
    assert all(side['seconds'] > 0 for side in sides.values())
    (first,), (again,), (torch,) = (side['tests'] for side in sides.values())
    assert first == again > 0.8 and torch == pytest.approx(first, abs=0.05)
    assert 'cnn_jax, later start' in text and len(list(tmp_path.iterdir())) == 1
    lines = scripts.errors(
        'compare_pytorch.py',
        ('--whole=second',),
        ('--whole=torch', '--model=autoencoder'),
        ('--whole=torch', '--augment=crop:1'),
    )
    for line, part in zip(lines, ("'second' must be one of", 'only class', 'without'), strict=True):
        assert part in line


@pytest.mark.parametrize(
    ('model', 'options'),
    [
        ('autoencoder', 'features=(4,8),hidden=4'),
        ('vgg16', 'width=0.05'),
        ('vgg16_bn', 'width=0.05'),
        ('cifar_resnet20', 'width=4'),
        ('m5', 'features=(4,4,8,8)'),
        ('textcnn', 'embedding=6,filters=3'),
        ('unet', 'width=2,depth=1,batch_norm=True'),
    ],
)
def test_networks(model, options, tmp_path, shared_data):
    dataset = data.load(parity.MODELS[model][0], data_dir=shared_data)
    config = parity.ParityConfig(
        model=model, model_options=options, steps=2, batch_size=4,
        optimizer='sgd', learning_rate=0.01,
    )  # fmt: skip
    folder = pathlib.Path(tmp_path)
    parity.prepare(folder, parity.Plan(config, compared_steps=2, test_examples=8), dataset)
    sides = {side: parity.run(folder, side) for side in parity.SIDES}
    found = parity.differences(sides['jax'], sides['torch'], [1, 2])
    for quantity, values in found.items():
        assert values['float64'] < 1e-10, quantity
        assert values['float32'] < 1e-2, quantity


@pytest.mark.parametrize(
    'flags',
    [
        {'optimizer': 'sgd', 'nesterov': False, 'schedule': 'constant'},
        {
            'optimizer': 'sgd',
            'schedule': 'one_cycle',
            'weight_decay': 0.1,
            'augment': 'crop:1,flip',
        },
        {'optimizer': 'adam', 'schedule': 'linear', 'warmup': '2steps', 'weight_decay': 0.1},
        {'optimizer': 'adamw', 'beta1': 0.5, 'weight_decay': 0.1},
    ],
)
def test_recipes(flags, tmp_path):
    config = parity.ParityConfig(steps=6, batch_size=32, learning_rate=0.01, seed=3, **flags)
    task = parity.prepare(
        tmp_path, parity.Plan(config, compared_steps=6, test_examples=8), data.load('digits')
    )
    sides = {side: parity.run(tmp_path, side) for side in parity.SIDES}
    found = parity.differences(sides['jax'], sides['torch'], task['kept_steps'])
    assert max(found[k]['float64'] for k in ('losses', 'parameters after 5')) < 1e-11


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (
            {'dtype': 'bfloat16'},
            "dtype='bfloat16' cannot be compared with PyTorch; leave it at 'float32'",
        ),
        ({'max_norm': 3.0}, 'max_norm=3.0 cannot be compared'),
        ({'optimizer': 'muon'}, "optimizer='muon': must be one of sgd, adam, adamw"),
        ({'augment': 'flip,mixup:0.2'}, "augment='flip,mixup:0.2': mixup and cutmix cannot"),
        ({'model': 'resnet18'}, "model='resnet18': must be one of lecture_cnn, vgg16"),
    ],
)
def test_what_has_no_counterpart_is_refused(flags, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parity.ParityConfig(**flags)


def test_relative_differences_are_per_array_unless_an_array_is_nothing():
    large, small = np.full(4, 100.0), np.full(4, 1.0)
    assert parity.relative([large, small * 1.01], [large, small]) == pytest.approx(0.01)
    # An array of rounding errors is measured against a thousandth of the total norm (200).
    noise = np.full(4, 1e-9)
    assert parity.relative([large, noise], [large, -noise]) == pytest.approx(4e-9 / 0.2, rel=1e-3)


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    plan = parity.Plan(parity.ParityConfig(batch_size=10**6))
    with pytest.raises(ValueError, match='batch_size=1000000 is larger than .*, 1442'):
        parity.prepare(tmp_path, plan, data.load('digits'))

"""Training with images split over devices: the same numbers as on one device, and no gathering."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from cnn_jax.bench.tpu.aot import collectives
from cnn_jax.data import Dataset, Split
from cnn_jax.errors import UserError
from cnn_jax.training import TrainConfig, augment, mesh
from cnn_jax.training.devices import Devices
from cnn_jax.training.job import Job, common_parts, make_devices, make_job, make_net, task_parts
from cnn_jax.training.members import make_members
from cnn_jax.training.step import several_steps

BASE = TrainConfig(
    batch_size=8, steps=10, optimizer='sgd', learning_rate=0.5, schedule='constant', momentum=0.0
)
# 28, 14 and 7 rows: the last do not split evenly into 2 strips.
RESNET = dataclasses.replace(
    BASE, model='cifar_resnet20', model_options='depth=8,width=4', augment='crop:2,flip,cutout:5'
)
# Pools, transposed convolutions, skip connections. At the bottom, 8 rows have become 1 on each of 4
# devices, and 14 rows 7.
UNET = dataclasses.replace(
    BASE, model='unet', model_options='width=2,depth=1,batch_norm=True', augment='crop:3,flip'
)
SMALL = {'model': 'unet', 'model_options': 'depth=1'}
KEY = jax.random.key(0)
EVEN, FOUR = 'data:4,space:2', 'data:2,space:4'


def make(config, side, text):
    """Returns a job on one device (`text` is '') or on a mesh of eight."""
    chance, dense = np.random.default_rng(0), 'resnet20' not in config.model
    labels = chance.integers(0, 3, (16, side, side) if dense else 16)
    split = Split(
        chance.integers(0, 256, (16, side, side, 1)).astype(np.uint8),
        labels.astype(np.uint8 if dense else np.int32),
    )
    splits = {'train': split, 'test': split.take(slice(0, 11))}
    task = 'segmentation' if dense else 'classification'
    dataset = Dataset('noise', 'image', splits, ('a', 'b', 'c'), (0.5,), (0.3,), task=task)
    config = dataclasses.replace(config, mesh=text)
    devices = Devices.all(None if text else jax.devices()[:1], text)
    parts = task_parts(config, dataset, make_net(config, dataset))
    return Job(**parts, **common_parts(config, dataset, devices))


def step(job, resident):
    """Returns the state and the metrics after one step, and the compiled program."""
    split, rows = job.dataset.splits['train'], np.arange(16, dtype=np.int32).reshape(2, 8)
    columns = {'inputs': split.inputs, 'labels': split.labels}
    if resident:
        data = job.devices.put_examples(columns), job.parallel.place(rows)
    else:
        data = {n: job.parallel.place(a[rows[:1]], whole=False) for n, a in columns.items()}, None
    arguments = job.init(), *data, job.devices.put(np.int32(1))
    calls = several_steps(job.step(), 1, resident)
    program = job.parallel.compile(calls, resident).lower(*arguments).compile()
    return *program(*arguments), program.as_text()


@functools.cache
def alone(config, side):
    job = make(config, side, '')
    state, metrics, _ = step(job, True)
    return state, metrics, job.evaluator().evaluate(state, 1, 'test').metrics


@pytest.mark.parametrize(
    'config, side, text, resident',
    [(RESNET, 28, EVEN, True), (UNET, 8, FOUR, True), (UNET, 14, EVEN, False)],
    ids=['resnet', 'unet', 'unet, uneven'],
)
def test_a_step_and_an_evaluation_are_those_of_one_device(config, side, text, resident):
    """Loss, gradients (as the update of plain SGD) and batch statistics; 11 test examples of 8."""
    job = make(config, side, text)
    state, metrics, program = step(job, resident)
    wanted, wanted_metrics, evaluated = alone(config, side)
    np.testing.assert_allclose(metrics['loss'], wanted_metrics['loss'], rtol=1e-5)
    np.testing.assert_allclose(metrics['leaf_norms'], wanted_metrics['leaf_norms'], rtol=1e-4)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5)
    jax.tree.map(close, state.params, wanted.params)
    jax.tree.map(close, state.model_state, wanted.model_state)
    found = job.evaluator().evaluate(state, 1, 'test').metrics
    assert found == pytest.approx(evaluated, rel=1e-4)
    if side == 8:  # every size is even: only sums, and the borders of strips
        kinds = {name.partition(' ')[0] for name in collectives(program)}
        assert kinds == {'all-reduce', 'collective-permute'}


def test_crops_of_strips_are_those_of_images():
    images = np.random.default_rng(0).normal(size=(16, 9, 8, 2)).astype('f')
    crops = [
        jax.jit(functools.partial(augment.crop, pad=3, in_strips=in_strips))(KEY, images)
        for in_strips in (False, True)
    ]
    np.testing.assert_array_equal(*crops)


def test_shape_of_a_mesh():
    assert mesh.shape('', 8) == mesh.shape('data:8', 8) == mesh.shape('data:8,space:1', 8) == (8, 1)
    assert mesh.shape('space:4', 8) == mesh.shape(' space:4, data:2', 8) == (2, 4)
    assert Devices.all(mesh='data:8').mesh == Devices.all().mesh
    assert str(Devices.all(mesh='space:2')).endswith('devices (4 x 2 strips)')
    split = TrainConfig(mesh='space:2')
    assert not split.differences(TrainConfig())  # the same run: another mesh may resume it


@pytest.mark.parametrize(
    'text, problem',
    [
        ('rows:2', "mesh='rows:2': unknown axis 'rows'; must be data or space"),
        ('space', "mesh='space': 'space' must be an axis and its size, such as space:2"),
        ('space:0', 'must be an axis and its size'),
        ('data:2,data:4', "axis 'data' is given twice"),
        ('space:3', "mesh='space:3': space:3 must divide the number of devices, 8"),
        ('data:2,space:2', 'needs 4 devices, but there are 8; with space:2 it must be data:4'),
    ],
)
def test_wrong_meshes_are_named(text, problem):
    with pytest.raises(UserError, match=problem):
        make_devices(TrainConfig(mesh=text))


@pytest.mark.parametrize(
    'options, problem',
    [
        (
            {'batch_size': 6},
            'batch_size=6: must be a multiple of the data:4 of mesh, for',
        ),
        ({'parallel': 'pmap'}, "parallel='pmap': does not split images"),
        (
            {'mesh': 'space:8', 'dataset': 'digit_scenes:count=8,size=20', **SMALL},
            r'space:8 must divide the 20 rows of an example of shape \(20, 20, ',
        ),
    ],
)
def test_what_does_not_fit_a_mesh_is_named(options, problem):
    with pytest.raises(UserError, match=problem):
        make_job(TrainConfig(**{'mesh': 'space:2', **options}))


def test_texts_have_no_rows():
    with pytest.raises(UserError, match=r'space:2 splits images or sounds, not .* shape \(50,\)'):
        Devices.all(mesh='space:2').check_strips((50,))


def test_runs_that_train_together_take_no_mesh():
    with pytest.raises(UserError, match="mesh='space:2': not for runs that train together"):
        make_members([TrainConfig(mesh='space:2')])

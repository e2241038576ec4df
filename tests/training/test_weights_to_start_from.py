"""Tests of --pretrained, --max_norm, and the description of the data set that a run keeps."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from cnn_jax import models
from cnn_jax.models import pretrained
from cnn_jax.training import TrainConfig, Workdir, WorkdirError, make_job
from cnn_jax.training.optimizer import keep_norm, make_optimizer
from cnn_jax.training.state import FunctionalModel, TrainState
from cnn_jax.training.weights import check_torchvision, from_torchvision
from tests.training.tiny import tiny_dataset


def net(classes):
    options = {'input_shape': (32, 32, 3), 'head': 'dense', 'width': 1 / 16}
    return FunctionalModel(
        lambda rngs: models.create('vgg11', num_classes=classes, rngs=rngs, **options)
    )


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    """Random weights of a narrow VGG for 3 classes, and the path of their file."""
    rng = np.random.default_rng(0)
    shapes = pretrained.torchvision_shapes(net(3).model)
    tensors = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    path = tmp_path_factory.mktemp('weights') / 'vgg.safetensors'
    save_file(tensors, path)
    return tensors, str(path)


@pytest.mark.parametrize('classes', [3, 5])
def test_weights_in_torchvisions_layout_start_a_run(file, classes, capsys):
    tensors, path = file
    here = net(classes)
    zeros = {name: jnp.zeros(s.shape, s.dtype) for name, s in here.params.items()}
    check_torchvision(here, path)
    got = from_torchvision(here, TrainState(jnp.zeros(()), zeros, {}, ()), path)
    assert got.keys() == zeros.keys()
    first = next(name for name in got if got[name].shape[:3] == (3, 3, 3))
    expected = tensors['features.0.weight'].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(got[first], expected)
    untouched = [name for name in got if not np.any(got[name])]
    last = [name for name in got if got[name].shape[-1] == classes]
    assert sorted(untouched) == (sorted(last) if classes == 5 else [])
    assert ('last layer keeps its initial values' in capsys.readouterr().out) == (classes == 5)


def test_weights_that_do_not_fit_are_refused_before_anything_runs(file, tmp_path):
    tensors, _ = file
    path = tmp_path / 'cut.safetensors'
    save_file({n: t for n, t in tensors.items() if not n.startswith('features.3')}, path)
    with pytest.raises(ValueError, match='features.3.weight.*missing'):
        check_torchvision(net(3), path)
    with pytest.raises(ValueError, match='digits has no colour images'):
        make_job(TrainConfig(pretrained=str(path)))
    with pytest.raises(ValueError, match='init_from=.* and pretrained=.*: give one'):
        TrainConfig(pretrained='a.pth', init_from='runs/b')


def test_max_norm_shortens_what_is_too_long_after_the_step():
    rng = np.random.default_rng(0)
    params = {
        'logits/kernel': jnp.asarray(rng.normal(size=(6, 3)) * [0.1, 1.0, 10.0]),
        'conv/kernel': jnp.asarray(rng.normal(size=(3, 4, 5)) * 10),
        'embed/embedding': jnp.asarray(rng.normal(size=(7, 4)) * 10),
    }
    grads = {name: jnp.asarray(rng.normal(size=p.shape)) for name, p in params.items()}
    optimizer = optax.chain(optax.sgd(0.5), keep_norm(2.0))
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    new = optax.apply_updates(params, updates)
    for name in params:
        expected = np.asarray(params[name] - 0.5 * grads[name], np.float64)
        if name == 'logits/kernel':
            norms = np.sqrt((expected**2).sum(0))
            assert norms[0] < 2 < norms[2]
            expected = expected * np.minimum(1, 2 / norms)
        # the update is a float32 difference of numbers of this size
        np.testing.assert_allclose(new[name], expected, atol=8e-7 * np.abs(expected).max())


def test_the_flag_reaches_the_optimiser():
    params = {'kernel': jnp.full((4, 1), 5.0)}
    grads = {'kernel': jnp.zeros((4, 1))}
    optimizer = make_optimizer(TrainConfig(max_norm=3.0, weight_decay=0.0), lambda _: 0.1)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    new = optax.apply_updates(params, updates)
    assert np.linalg.norm(new['kernel']) == pytest.approx(3, rel=1e-6)


def test_a_folder_keeps_what_its_data_set_is(tmp_path):
    workdir = Workdir(tmp_path / 'run', TrainConfig())
    made = tiny_dataset()
    with workdir.hold():
        assert workdir.described() is None
        workdir.describe(made)
    again = workdir.described()
    assert again.class_names == made.class_names and again.mean == made.mean
    assert not len(again.splits['train'])
    (workdir.path / 'dataset.json').write_text('{')
    with pytest.raises(WorkdirError, match='dataset.json cannot be read'):
        workdir.described()

"""Tests of the path from a configuration to the initial state."""

import jax
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models, nn
from cnn_jax.data import Dataset, Split
from cnn_jax.errors import UserError
from cnn_jax.training import TrainConfig
from cnn_jax.training.devices import Devices
from cnn_jax.training.job import Job, common_parts, make_job, make_net, task_parts
from tests.training.tiny import tiny_dataset


def test_training_sets_the_fixed_weights_of_airbench_from_its_images():
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    split = Split(images, np.arange(40, dtype=np.int32) % 2)
    dataset = Dataset(
        'noise', 'image', {'train': split, 'test': split}, ('a', 'b'), (0.5,) * 3, (0.3,) * 3
    )
    config = TrainConfig(model='airbench', model_options='widths=(4,4,4)', steps=1, batch_size=8)
    net = make_net(config, dataset)
    job = Job(**task_parts(config, dataset, net), **common_parts(config, dataset, Devices.all()))
    kernel = job.init().model_state['layers/whiten/kernel']
    assert kernel.shape == net.model_state['layers/whiten/kernel'].shape == (2, 2, 3, 24)
    white = jax.lax.conv(
        dataset.normalize(images).transpose(0, 3, 1, 2),
        kernel.transpose(3, 2, 0, 1)[:12],
        (1, 1),
        'VALID',
    )
    covariance = np.einsum('nchw,ndhw->cd', white, white) / white[:, 0].size
    np.testing.assert_allclose(covariance, np.eye(12), atol=5e-3)
    assert models.data_dependent_init('lecture_cnn', None) == {}


@pytest.mark.skipif(not hasattr(nnx, 'SpectralNorm'), reason='new in flax 0.12')
def test_a_model_may_write_its_parameters(monkeypatch):
    monkeypatch.setattr(models.MODELS, '_values', dict(models.MODELS._values))

    @models.register('bounded')
    def bounded(make, input_shape, num_classes):
        layers = {
            # For a call, Flax's layer replaces the kernel by the kernel over its spectral norm.
            'conv': nnx.SpectralNorm(make.conv(1, 4, (3, 3), strides=2), rngs=make.rngs),
            'pool': nn.GlobalAvgPool(),
            'logits': make.linear(4, num_classes),
        }
        return models.Classifier(nn.Layers(layers), input_shape, num_classes)

    config, dataset = TrainConfig(model='bounded', steps=1), tiny_dataset()
    net = make_net(config, dataset)
    task_parts(config, dataset, net)  # calls the model, abstractly
    assert net.params['layers/conv/layer_instance/kernel'].shape == (3, 3, 1, 4)


def test_old_names_work_with_a_warning():
    from cnn_jax import models, training

    with pytest.warns(DeprecationWarning, match='FunctionalModel'):
        assert training.Net is training.FunctionalModel
    with pytest.warns(DeprecationWarning, match='data_dependent_init'):
        assert models.set_from_inputs('lecture_cnn', None) == {}


def test_groups_of_batch_norm_are_those_of_the_flag():
    config = TrainConfig(model='small_cnn', batch_size=16, norm_group=2)
    modules = [module for _, module in nnx.iter_graph(make_job(config).net.model)]
    assert {m.group_size for m in modules if isinstance(m, nnx.BatchNorm)} == {2}
    assert 'norm_group' not in TrainConfig().identity()  # earlier runs keep their folders


@pytest.mark.parametrize(
    'options, problem',
    [
        ({'norm_group': 3}, 'norm_group=3: must divide the 16 examples that are computed together'),
        ({'norm_group': 8, 'accumulate': 4}, 'must divide the 4 examples'),
        ({'norm_group': 4, 'parallel': 'pmap'}, 'must divide the 2 examples'),
        ({'norm_group': 2, 'model': 'lecture_cnn'}, "model 'lecture_cnn' has no batch norm"),
    ],
)
def test_groups_of_batch_norm_that_do_not_fit_are_named(options, problem):
    devices = Devices.all(jax.devices()[:1]) if 'accumulate' in options else None
    with pytest.raises(UserError, match=problem):
        make_job(TrainConfig(**{'model': 'small_cnn', 'batch_size': 16, **options}), devices)

"""Tests of the path from a configuration to the initial state."""

import jax
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.data import Dataset, Split
from cnn_jax.training import TrainConfig
from cnn_jax.training.devices import Devices
from cnn_jax.training.job import Job, common_parts, make_net, task_parts


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


def test_old_names_work_with_a_warning():
    from cnn_jax import models, training

    with pytest.warns(DeprecationWarning, match='FunctionalModel'):
        assert training.Net is training.FunctionalModel
    with pytest.warns(DeprecationWarning, match='data_dependent_init'):
        assert models.set_from_inputs('lecture_cnn', None) == {}

"""Compares whole models with the same architectures in PyTorch, with the same weights."""

import jax
import numpy as np
import pytest

from cnn_jax import models
from cnn_jax.training.state import FunctionalModel

torch = pytest.importorskip('torch', reason='the compare extra is not installed')

from cnn_jax.bench.parity.torch_networks import NETWORKS, to_torch  # noqa: E402

# Arguments of `create` that make the models small.
SMALL = {
    'airbench': {'input_shape': (32, 32, 3), 'widths': (4, 5, 6)},
    'cifar_resnet20': {'input_shape': (16, 16, 3), 'depth': 8, 'width': 4},
    'dcgan_generator': {'input_shape': (28, 28, 1), 'latent': 6, 'width': 3},
    'lecture_cnn': {'input_shape': (8, 8, 1)},
    'lenet5': {'input_shape': (28, 28, 1)},
    'm5': {'input_shape': (1100, 1), 'features': (3, 4, 5, 6)},
    'mnist1d_cnn': {'input_shape': (40, 1)},
    'mobilenet': {'input_shape': (32, 32, 3), 'width': 0.05},
    'nin': {'input_shape': (32, 32, 3)},
    'se_resnet50': {'input_shape': (16, 16, 3), 'depth': 26, 'width': 4, 'reduction': 3},
    'textcnn': {
        'input_shape': (9,), 'vocabulary_size': 30, 'embedding': 8, 'filters': 5, 'windows': (2, 3),
    },
    'vgg16': {'input_shape': (32, 32, 3), 'width': 0.1, 'head': 'pooled'},
    'vgg16_bn': {'input_shape': (32, 32, 3), 'width': 0.1, 'head': 'pooled'},
    'wrn28_10': {'input_shape': (16, 16, 3), 'depth': 10, 'widen': 2},
}  # fmt: skip


@pytest.mark.parametrize('name', SMALL)
def test_outputs_equal_those_of_torch(name):
    net = FunctionalModel(lambda rngs: models.create(name, num_classes=7, rngs=rngs, **SMALL[name]))
    params, model_state = filled(net.params), filled(net.model_state)
    rng = np.random.default_rng(1)
    if name == 'textcnn':
        x = rng.integers(0, 30, (3, 9)).astype(np.int32)
        x[:, 6:] = 0
    else:
        x = rng.standard_normal((2, *net.model.input_shape)).astype(np.float32)
    outputs = np.asarray(jax.jit(net.predict)(params, model_state, x))
    p = {n: torch.from_numpy(to_torch(n, a)) for n, a in (params | model_state).items()}
    given = torch.from_numpy(x).long() if name == 'textcnn' else torch.from_numpy(x).movedim(-1, 1)
    expected = NETWORKS[name](p | {'training': False}, given)
    expected = expected.movedim(1, -1).numpy()
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


def filled(shapes):
    """Random weights that keep the variance near 1 in every layer, and random batch statistics."""
    rng = np.random.default_rng(0)

    def fill(name, shape):
        if len(shape) > 1:
            fan_in = np.prod(shape[:-1])
            return (rng.standard_normal(shape) * (2 / fan_in) ** 0.5).astype(np.float32)
        if name.endswith(('scale', 'var')):
            return (1 + 0.2 * rng.uniform(size=shape)).astype(np.float32)
        return (0.2 * rng.standard_normal(shape)).astype(np.float32)

    return {name: fill(name, leaf.shape) for name, leaf in shapes.items()}

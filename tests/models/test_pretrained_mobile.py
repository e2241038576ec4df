"""MobileNetV2 and V3, EfficientNet and ConvNeXt against the same networks in PyTorch."""

import importlib.util
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.models import pretrained
from cnn_jax.models.torchvision_names import parameters

torch = pytest.importorskip('torch', reason='the compare extra is not installed')


def load(name):
    path = pathlib.Path(__file__).with_name(f'{name}.py')
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


layout = load('torchvision_layout')
theirs = load('torchvision_mobile')

# Model, options that make it small, and the same network in PyTorch.
SMALL = {
    'mobilenet_v2': ({'width': 0.25}, partial(theirs.mobilenet_v2, 0.25)),
    'mobilenet_v3_small': ({'width': 0.5}, partial(theirs.mobilenet_v3_small, 0.5)),
    'efficientnet_b0': ({'width': 0.5, 'depth': 0.5}, partial(theirs.efficientnet, 0.5, 0.5)),
    'convnext_tiny': ({'width': 8, 'depths': (1, 2, 1)}, partial(theirs.convnext, (1, 2, 1), 8)),
}
FULL = {
    'mobilenet_v2': (theirs.mobilenet_v2, (1,), 3_504_872),
    'mobilenet_v3_small': (theirs.mobilenet_v3_small, (1,), 2_542_856),
    'efficientnet_b0': (theirs.efficientnet, (1, 1), 5_288_548),
    'convnext_tiny': (theirs.convnext, ((3, 3, 9, 3), 96), 28_589_128),
}
# Options without which a training step is random.
DETERMINISTIC = {'mobilenet_v3_small': {'dropout': 0.0}, 'convnext_tiny': {'drop_rate': 0.0}}


def pair(name, **options):
    """Returns a model with the random weights of the same network in PyTorch, and that network."""
    small, build = SMALL[name]
    options = {'input_shape': (64, 64, 3), 'num_classes': 7} | small | options
    network = layout.randomize(build(7), seed=0)
    abstract = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **options))
    graph, state = nnx.split(abstract)
    model = nnx.merge(graph, jax.tree.map(zeros, state))
    pretrained.put_torchvision(model, arrays(network.state_dict()))
    return model, network


def zeros(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.zeros(leaf.shape, leaf.dtype)


def arrays(tensors):
    return {key: tensor.detach().numpy().copy() for key, tensor in tensors.items()}


def images():
    return np.random.default_rng(0).standard_normal((4, 64, 64, 3)).astype(np.float32)


@pytest.mark.parametrize('name', SMALL)
def test_every_layer_agrees_with_torch(name):
    model, network = pair(name)
    rows = pretrained.compare_layers(model, network, images())
    compared = {row.torch_name for row in rows}
    with_weights = {key.rpartition('.')[0] for key in network.state_dict()}
    # of squeeze-and-excitation, only the result is recorded
    assert {key for key in with_weights - compared if not key.endswith(('fc1', 'fc2'))} == set()
    assert rows[-1].shape == (4, 7) and rows[-1].torch_name.startswith('classifier.')
    # Before ReLU6, values are up to 20 times as large as after it, and so are rounding errors.
    tolerance = 1e-4 if name == 'mobilenet_v2' else 1e-5
    for row in rows:
        assert row.scale > 1e-3, row
        assert row.max_abs <= tolerance * row.scale, row
    layout.assert_loads(network, pretrained.torchvision_tensors(model))


@pytest.mark.parametrize('name', DETERMINISTIC)
def test_gradients_and_batch_means_agree_with_torch(name):
    model, network = pair(name, **DETERMINISTIC[name])
    model.train()
    x = images()
    weights = np.random.default_rng(1).standard_normal((4, 7)).astype(np.float32)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, rest):
        def loss(params):
            model = nnx.merge(graph, params, rest, copy=True)
            return jnp.sum(weights * model(x)), nnx.state(model, nnx.BatchStat)

        return jax.grad(loss, has_aux=True)(params)

    grads, statistics = step(params, rest)
    network.train()
    (torch.from_numpy(weights) * network(torch.from_numpy(x).movedim(-1, 1))).sum().backward()
    expected = arrays(network.state_dict())
    expected |= arrays({key: p.grad for key, p in network.named_parameters()})
    expected = pretrained.fitting(model, expected)
    nnx.update(model, grads, statistics)
    for key, parameter in parameters(model).items():
        if key.endswith('running_var'):  # PyTorch's variance divides by one less, Flax's does not
            continue
        ours, wanted = np.asarray(parameter.variable[...]), expected[key]
        # the second term is for biases that the next batch norm removes: their gradient is 0
        assert np.abs(ours - wanted).max() <= 2e-3 * np.abs(wanted).max() + 1e-5, key


@pytest.mark.parametrize('name', FULL)
def test_the_torch_networks_have_the_published_sizes(name):
    build, arguments, published = FULL[name]
    with torch.device('meta'):
        network = build(*arguments, 1000)
    assert sum(p.numel() for p in network.parameters()) == published


@pytest.mark.parametrize('name', SMALL)
def test_the_small_stem_has_no_counterpart(name):
    small, _ = SMALL[name]
    arguments = small | {'input_shape': (32, 32, 3), 'num_classes': 7}
    model = nnx.eval_shape(lambda: models.create(name, rngs=nnx.Rngs(0), **arguments))
    with pytest.raises(ValueError, match='no counterpart in torchvision'):
        pretrained.torchvision_shapes(model)
    assert model.layers.stem.output_size((32, 32)) == ((16,) if 'conv' in name else (32,)) * 2

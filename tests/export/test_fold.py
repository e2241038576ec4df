"""Networks with folded batch norm against the same networks with batch norm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models, nn
from cnn_jax.export.fold import ScaleShift, fold_batch_norm
from cnn_jax.ops.dispatch import use_implementation
from cnn_jax.training.state import FunctionalModel
from tools.small_models import all_arguments, arrays

# Model, options that make it smaller, and how many batch norms become a scale and a shift.
FAMILIES = [
    ('resnet18', {}, 0),
    ('densenet121', {'counts': (1, 2)}, 5),  # after concatenations, and first in a transition
    ('wrn16_4', {'depth': 10}, 4),  # pre-activation: first in every stage; one at the end
    ('airbench', {}, 3),  # after a pool
    ('unet', {'depth': 1}, 0),
    ('dcgan_generator', {'width': 2}, 0),
]


def create(name, **options):
    make = functools.partial(models.create, name, num_classes=7, **all_arguments()[name] | options)
    net, chance = FunctionalModel(lambda rngs: make(rngs=rngs)), np.random.default_rng(0)
    model = net.merge(arrays(net.params, chance), arrays(net.model_state, chance))
    model.eval()
    shape = (2, *model.input_shape)
    x = chance.integers(1, 100, shape) if model.kind == 'text' else chance.normal(size=shape)
    return model, jnp.asarray(x, jnp.int32 if model.kind == 'text' else jnp.float32)


@nnx.jit
def run(model, x):
    with use_implementation('lax'):
        return model(x)


def check(model, x, left):
    folded = fold_batch_norm(model)
    kinds = [type(module) for _, module in nnx.iter_graph(folded)]
    assert nnx.BatchNorm not in kinds and left in (None, kinds.count(ScaleShift))
    expected = run(model, x)
    # float32 through up to 155 layers
    np.testing.assert_allclose(run(folded, x), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize('name, options, left', FAMILIES, ids=[name for name, *_ in FAMILIES])
def test_folded_networks_compute_the_same(name, options, left):
    check(*create(name, **options), left)


@pytest.mark.slow
@pytest.mark.parametrize('name', models.names())
def test_every_model(name):
    check(*create(name), None)


def test_what_follows_a_layer_that_is_used_twice_is_not_folded_into_it():
    rngs = nnx.Rngs(0)
    shared = nn.Conv(2, 2, (1,), rngs=rngs)
    norm = lambda: nnx.BatchNorm(2, use_running_average=True, rngs=rngs)  # noqa: E731
    model = nn.Layers({'a': shared, 'bn1': norm(), 'b': shared, 'bn2': norm()})
    model.bn1.mean[...] = jnp.array([1.0, -3.0])
    x = jax.random.normal(jax.random.key(0), (2, 5, 2))
    check(model, x, 2)
    assert isinstance(model.bn1, nnx.BatchNorm)  # the model itself has not changed


def test_formula():
    """A dense layer and batch norm in float64: scale (x w + b - mean) / sqrt(var + eps) + bias."""
    rngs = nnx.Rngs(0)
    dense, norm = nnx.Linear(3, 2, rngs=rngs), nnx.BatchNorm(2, epsilon=0.1, rngs=rngs)
    chance = np.random.default_rng(0)
    values = {'mean': norm.mean, 'var': norm.var, 'scale': norm.scale, 'shift': norm.bias}
    at = {name: chance.uniform(0.5, 2, 2) for name in values}
    for name, variable in values.items():
        variable[...] = jnp.asarray(at[name], jnp.float32)
    dense.bias[...] = jnp.array([1.0, -2.0])
    x = chance.normal(size=(4, 3))
    y = x @ np.asarray(dense.kernel[...], np.float64) + [1, -2]
    expected = at['scale'] * (y - at['mean']) / np.sqrt(at['var'] + 0.1) + at['shift']
    folded = fold_batch_norm(nn.Layers({'dense': dense, 'norm': norm}))
    np.testing.assert_allclose(folded(jnp.float32(x)), expected, rtol=1e-5, atol=1e-5)

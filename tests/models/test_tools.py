"""JAX's and Flax's own tools work on whole models."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import jet

from cnn_jax import models
from tools.small_models import arguments


def test_jet_gives_the_taylor_coefficients_of_a_network():
    """Compares the second derivative along a line with that of nested forward mode."""
    model = models.create('lenet5', input_shape=(32, 32, 1), num_classes=10, rngs=nnx.Rngs(0))
    model.eval()
    graph, state = nnx.split(model)
    x, v = np.random.default_rng(0).normal(size=(2, 2, 32, 32, 1)).astype(np.float32)

    def network(x):
        return nnx.merge(graph, state)(x)

    def along(t):
        return network(x + t * v)

    def derivative(t):
        return jax.jvp(along, (t,), (1.0,))[1]

    first, second = jax.jvp(derivative, (0.0,), (1.0,))
    _, (found_first, found_second) = jax.jit(
        lambda x: jet.jet(network, (x,), ((v, jnp.zeros_like(v)),))
    )(x)
    for found, expected in [(found_first, first), (found_second, second)]:
        np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max())


@pytest.mark.skipif(
    'compute_vjp_flops' not in inspect.signature(nnx.tabulate).parameters,
    reason='this release of Flax counts no operations',
)
@pytest.mark.parametrize('name', ['lecture_cnn', 'resnet18'])
def test_tabulate_reads_nested_blocks_and_counts_their_parameters(name):
    options = arguments(name)
    model = models.create(name, num_classes=10, rngs=nnx.Rngs(0), **options)
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    x = jnp.zeros((1, *model.input_shape))
    table = nnx.tabulate(
        model, x, compute_flops=True, compute_vjp_flops=True, console_kwargs={'width': 240}
    )
    total = re.search(r'Total Parameters: ([\d,]+)', re.sub(r'\x1b\[[\d;]*m', '', table))
    rest = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.BatchStat)))
    assert int(total[1].replace(',', '')) == count + rest

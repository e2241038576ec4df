"""Tests that unmodified programs of other libraries train the same with the kernels installed."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax.bench.steps.libraries import LIBRARIES

STEPS = 20
PACKAGES = {'linen': 'flax', 'nnx': 'flax'}


def losses(name, installed):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((8, 12, 12, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, 8))
    with cnn_jax.installed(installed):
        state, step = LIBRARIES[name]((8, 8, 16), 'float32', images)
        found = []
        for _ in range(STEPS):
            state, loss = step(state, images, labels)
            found.append(float(loss))
    return found


@pytest.mark.parametrize('name', LIBRARIES)
def test_installed_kernels_give_the_same_losses(name):
    package = PACKAGES.get(name, name)
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is not installed (extra: libraries)')
    without, with_kernels = losses(name, False), losses(name, True)
    assert without[-1] < without[0]
    # Rounding differs, and 20 steps amplify it only slightly.
    np.testing.assert_allclose(with_kernels, without, rtol=1e-5)


def test_flax_transposed_convolutions_give_the_same_gradients():
    from flax import nnx

    layer = nnx.ConvTranspose(6, 4, (4, 4), (2, 2), padding='SAME', rngs=nnx.Rngs(0))
    graph, params = nnx.split(layer)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 5, 6)), jnp.float32)

    def gradients(params, x):
        return jax.grad(lambda p, x: (nnx.merge(graph, p)(x) ** 2).sum(), (0, 1))(params, x)

    expected = jax.jit(lambda p, x: gradients(p, x))(params, x)
    with cnn_jax.installed():
        found = jax.jit(gradients)(params, x)
        used = cnn_jax.explain(gradients, params, x)
    assert {u.spec.strides for u in used} == {(2, 2)}
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

"""Tests of `dot_general`, which computes some products as pointwise convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import cnn_jax
from cnn_jax.ops.kernels.native import onednn

needs_bfloat16 = pytest.mark.skipif(
    jax.default_backend() != 'cpu' or onednn.bfloat16_rate() == 0,
    reason='needs native kernels and a CPU that multiplies bfloat16 in hardware',
)


@pytest.fixture(autouse=True)
def fast_bfloat16(monkeypatch):
    """Replaces the measured rate, where it is so low that products in float32 are faster."""
    if onednn.bfloat16_rate():
        monkeypatch.setattr(onednn, 'bfloat16_rate', lambda: 2)


def normal(*shape, dtype=jnp.bfloat16, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def product(x, w, **options):
    return cnn_jax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())), **options)


def is_native(f, *args):
    """Returns whether the native kernel computes any of f."""
    return 'cnn_jax_onednn' in jax.jit(lambda *args: f(*args)).lower(*args).as_text()


def jax_own(x, w):
    return lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())))


def passes(f):
    """Returns a function that computes f and its gradients."""

    def run(x, w, dy):
        y, vjp = jax.vjp(f, x, w)
        return y, *vjp(dy)

    return run


@needs_bfloat16
@pytest.mark.parametrize('batch', [(70,), (5, 16), (1, 2, 64)])
@pytest.mark.parametrize('f', [product, jax_own])
def test_values_and_gradients_agree_with_float64(f, batch):
    x, w, dy = normal(*batch, 48), normal(48, 20, seed=1), normal(*batch, 20, seed=2)
    assert not is_native(passes(jax_own), x, w, dy)
    with cnn_jax.installed(f is jax_own):
        text = jax.jit(passes(f)).lower(x, w, dy).as_text()
        assert text.count('@cnn_jax_onednn') == 3 and 'dot_general' not in text
        y, dx, dw = jax.jit(passes(f))(x, w, dy)
    x, w, dy = (np.asarray(a, np.float64) for a in (x, w, dy))
    rows, d_rows = x.reshape(-1, 48), dy.reshape(-1, 20)
    for found, expected in ((y, x @ w), (dx, dy @ w.T), (dw, rows.T @ d_rows)):
        assert found.dtype == jnp.bfloat16 and found.shape == expected.shape
        np.testing.assert_allclose(found.astype('f'), expected, rtol=2**-8, atol=1e-3)


@needs_bfloat16
def test_transforms():
    x, w = normal(3, 64, 32), normal(3, 32, 8, seed=1)
    found = jax.vmap(product)(x, w)
    np.testing.assert_array_equal(found, jnp.stack([*map(product, x, w)]))
    _, tangent = jax.jvp(product, (x[0], w[0]), (x[1], w[1]))
    expected = product(x[1], w[0]).astype('f') + product(x[0], w[1]).astype('f')
    np.testing.assert_allclose(tangent.astype('f'), expected, rtol=2**-7, atol=2**-4)


@pytest.mark.parametrize(
    ('x', 'w', 'options'),
    [
        (normal(64, 32, dtype=jnp.float32), normal(32, 8, dtype=jnp.float32), {}),
        (normal(64, 32), normal(32, 8), {'preferred_element_type': jnp.float32}),
        (normal(64, 32), normal(32, 8), {'precision': 'highest'}),
        (normal(63, 32), normal(32, 8), {}),  # few rows
        (normal(64, 24), normal(24, 8), {}),  # not whole blocks of features
        (normal(64, 0), normal(0, 8), {}),
        (normal(32), normal(32, 8), {}),
    ],
)
def test_everything_else_is_jax_own(x, w, options):
    assert not is_native(lambda *a: product(*a, **options), x, w)
    expected = lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())), **options)
    found = product(x, w, **options)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@needs_bfloat16
@pytest.mark.parametrize(
    ('shapes', 'axes'),
    [
        (((64, 3, 32), (32, 5, 16)), ((2, 0), ())),  # weights of three axes
        (((3, 64, 32), (3, 32, 16)), ((2, 1), (0, 0))),  # a batch of products
        (((64, 32), (16, 32)), ((1, 1), ())),  # dy w^T
        (((64, 32), (64, 16)), ((0, 0), ())),  # x^T dy
        (((64, 5, 32), (64, 5, 16)), ((0, 0), ())),  # neither
    ],
)
def test_any_axes_agree_with_float64(shapes, axes):
    x, w = (normal(*shape, seed=i) for i, shape in enumerate(shapes))
    numbers = tuple(tuple((axis,) for axis in pair) or ((), ()) for pair in axes)
    expected = lax.dot_general(*(a.astype('f') for a in (x, w)), numbers)
    found = jax.jit(lambda x, w: cnn_jax.dot_general(x, w, numbers))(x, w)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.astype('f'), expected, rtol=2**-7, atol=1e-2)


def test_a_named_kernel_is_for_convolutions_and_an_export_for_any_machine():
    x, w = normal(64, 32), normal(32, 8)
    with cnn_jax.use_implementation(conv='lax'):
        assert not is_native(product, x, w)
    assert 'onednn' not in jax.export.export(jax.jit(product))(x, w).mlir_module()


def test_linear_of_flax():
    layer = nnx.Linear(32, 8, dtype=jnp.bfloat16, dot_general=cnn_jax.dot_general, rngs=nnx.Rngs(0))
    x = normal(64, 32)
    expected = nnx.Linear(32, 8, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))(x)
    np.testing.assert_allclose(layer(x).astype('f'), expected.astype('f'), rtol=2**-7, atol=1e-2)


@needs_bfloat16
def test_a_sharded_batch_gives_the_same():
    mesh = Mesh(jax.devices()[:2], 'batch')
    x, w, dy = normal(128, 32), normal(32, 8, seed=1), normal(128, 8, seed=2)
    expected = jax.jit(passes(product))(x, w, dy)
    divided = NamedSharding(mesh, PartitionSpec('batch'))
    x, dy = jax.device_put((x, dy), divided)
    found = jax.jit(passes(product))(x, w, dy)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a, 'f'), np.asarray(b, 'f'), rtol=2**-7, atol=2**-3)

"""Tests of maxima and minima with a number, as `install` and `nn.Residual` lower them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export, lax

import cnn_jax
from cnn_jax import nn
from cnn_jax.ops.lowering import bounds
from tests.compilation import x64

SHAPE = (4, 16, 16, 32)  # large enough for the rules
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, -0.5]  # subnormals are flushed


def array(dtype, shape=SHAPE):
    values = np.random.default_rng(0).normal(size=shape)
    values.flat[: len(SPECIAL)] = SPECIAL
    return jnp.asarray(values, dtype)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16', 'float64'])
@pytest.mark.parametrize('bound', [0.0, 0.5, np.nan, np.inf, -np.inf])
def test_values_are_those_of_jax(bound, dtype):
    with x64(dtype == 'float64'):
        check_values(array(dtype), jnp.asarray(bound, dtype))


def check_values(x, bound):
    both = lambda x, b: [f(*args) for f in (lax.max, lax.min) for args in ((x, b), (b, x))]  # noqa: E731
    expected = jax.jit(lambda x, b: both(x, b))(x, bound)
    with cnn_jax.installed():
        text = jax.jit(both).lower(x, bound).as_text()
        found = jax.jit(both)(x, bound)
    assert 'stablehlo.maximum' not in text and 'stablehlo.minimum' not in text
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64))


def test_relu_has_no_negative_zero():
    with cnn_jax.installed():
        y = jax.jit(jax.nn.relu)(array('float32'))
    assert not np.signbit(y).any()


@pytest.mark.parametrize('x, bound', [
    (np.zeros(SHAPE, np.int32), 0), (np.zeros(7, np.float32), 0.0),
    (np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)),
])  # fmt: skip
def test_everything_else_is_left_to_jax(x, bound):
    with cnn_jax.installed():
        assert 'stablehlo.maximum' in jax.jit(lambda x: jnp.maximum(x, bound)).lower(x).as_text()


def test_a_symbolic_size_is_left_to_jax():
    relu = jax.jit(lambda x: jnp.maximum(x, 0))
    x = jax.ShapeDtypeStruct(export.symbolic_shape('n, 64'), jnp.float32)
    with cnn_jax.installed():
        saved = export.export(relu)(x)
    assert 'stablehlo.maximum' in str(saved.mlir_module())


@pytest.mark.parametrize('f', [jax.nn.relu, jax.nn.relu6, lambda x: jnp.clip(x, -1, 1)])
def test_derivatives_and_vmap_are_jaxs(f):
    x = array('float32')[1:]
    g = jnp.flip(x)

    def results(x):
        pullback = lambda x, g: jax.vjp(f, x)[1](g)[0]  # noqa: E731
        return (
            f(x),
            pullback(x, g),
            jax.jvp(f, (x,), (g,)),
            jax.vmap(f)(x),
            jax.hessian(lambda t: f(x * t).sum())(1.0),
        )

    expected = jax.jit(lambda x: results(x))(x)
    with cnn_jax.installed():
        found = jax.jit(results)(x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3), found, expected
    )


# ---------------------------------------------------------------------------- chains of blocks


def traffic(step, *args):
    """Returns the bytes that the operations of a compiled program read and write."""
    return jax.jit(step).lower(*args).compile().cost_analysis()['bytes accessed']


def residual_loss(count):
    def loss(x, w):
        for _ in range(count):
            x = jax.nn.relu(x + jnp.dot(x, w, precision='highest'))
        return (x**2).sum()

    return loss


def is_linear(cost):
    """Returns whether blocks 9 to 16 cost about as much as blocks 1 to 8."""
    return cost(16) < 2.2 * cost(8)


def test_residual_sums_of_any_program_are_computed_once():
    x, w = jnp.ones((128, 128)), jnp.ones((128, 128)) / 200
    cost = lambda count: traffic(jax.grad(residual_loss(count)), x, w)  # noqa: E731
    with cnn_jax.installed():
        assert is_linear(cost)


def blocks(count):
    block = lambda: nn.Residual(  # noqa: E731
        {'dense': nnx.Linear(128, 128, rngs=nnx.Rngs(0))}, activation=nnx.relu
    )
    return nn.Layers({f'block{i}': block() for i in range(count)})


def test_residual_blocks_are_computed_once():
    def cost(count):
        graph, state = nnx.split(blocks(count))
        loss = lambda state, x: (nnx.merge(graph, state)(x) ** 2).sum()  # noqa: E731
        return traffic(jax.grad(loss), state, jnp.ones((128, 128)))

    assert is_linear(cost)


def test_a_block_with_lax_is_the_program_without_this_package():
    model, x = blocks(1), jnp.ones((128, 128))
    with cnn_jax.use_implementation('lax'):
        assert 'stablehlo.maximum' in jax.jit(lambda x: model(x)).lower(x).as_text()
    assert 'stablehlo.maximum' not in jax.jit(lambda x: model(x)).lower(x).as_text()


def test_a_block_keeps_the_maximum_on_accelerators():
    model, x = blocks(1), jnp.ones((128, 128))
    traced = jax.jit(lambda x: model(x)).trace(x)
    for platform in ('tpu', 'cuda'):
        assert 'stablehlo.maximum' in traced.lower(lowering_platforms=(platform,)).as_text()


def test_bounds_are_scalars_beside_large_arrays():
    large, small, one = (jnp.zeros(shape) for shape in (SHAPE, 4, ()))
    assert bounds.is_bound(large, one)
    assert bounds.is_bound(one, large)
    assert not bounds.is_bound(one, one)
    assert not bounds.is_bound(small, one)
    assert not bounds.is_bound(large, large)

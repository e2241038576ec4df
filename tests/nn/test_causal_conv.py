"""`CausalConv` on whole signals against Flax, and by chunks against whole signals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from cnn_jax import nn


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


OPTIONS = [{}, {'strides': 2, 'kernel_dilation': 3}, {'feature_group_count': 2, 'use_bias': False}]


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_whole_signals_as_in_flax_and_chunks_as_the_whole(options):
    layer = nn.CausalConv(4, 6, 3, rngs=nnx.Rngs(0), **options)
    flax = nnx.Conv(4, 6, 3, padding='CAUSAL', rngs=nnx.Rngs(0), **options)
    nnx.update(flax, nnx.state(layer))
    x = normal((2, 20, 4))
    whole = layer(x)
    np.testing.assert_allclose(whole, flax(x), rtol=1e-5, atol=1e-5)
    assert layer.output_size((20,)) == whole.shape[1:-1]
    call = nnx.jit(lambda layer, x, state: layer(x, state))
    for sizes in ([1] * 20, [7, 0, 2, 11]):
        parts, state = [], layer.init_state(2)
        for chunk in np.split(x, np.cumsum(sizes)[:-1], 1):
            y, state = call(layer, chunk, state)
            parts.append(y)
        np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-5, atol=1e-5)


def test_no_output_depends_on_a_later_input():
    layer = nn.CausalConv(2, 3, 4, kernel_dilation=2, rngs=nnx.Rngs(0))
    jacobian = jax.jacobian(lambda x: layer(x).sum(-1))(jnp.ones((12, 2))).sum(-1)
    assert (jacobian[jnp.triu_indices(12, 1)] == 0).all() and (jnp.diag(jacobian) != 0).all()


def test_a_stack_of_layers_streams_and_trains_in_a_scan():
    rngs = nnx.Rngs(0)
    first = nn.CausalConv(1, 4, 3, rngs=rngs)
    second = nn.CausalConv(4, 2, 3, kernel_dilation=2, rngs=rngs)
    graph, params = nnx.split((first, second))
    x = normal((2, 16, 1))

    def whole(params, x):
        one, two = nnx.merge(graph, params)
        return jnp.square(two(jnp.tanh(one(x)))).sum()

    def by_chunks(params, x):
        one, two = nnx.merge(graph, params)

        def step(states, chunk):
            hidden, s = one(chunk, states[0])
            y, t = two(jnp.tanh(hidden), states[1])
            return (s, t), jnp.square(y).sum()

        chunks = x.reshape(2, 4, 4, 1).swapaxes(0, 1)
        return lax.scan(step, (one.init_state(2), two.init_state(2)), chunks)[1].sum()

    wanted, found = (jax.jit(jax.value_and_grad(f, (0, 1)))(params, x) for f in (whole, by_chunks))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), wanted, found)


def test_dtypes_and_batch_axes_of_the_state():
    half = nn.CausalConv(2, 3, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    state = half.init_state(2)
    assert state.dtype == jnp.bfloat16 and state.shape == (2, 2, 2)
    x = normal((2, 8, 2))
    parts = []
    for chunk in np.split(x, [3], 1):
        y, state = half(chunk, state)
        assert y.dtype == state.dtype == jnp.bfloat16
        parts.append(y)
    np.testing.assert_array_equal(jnp.concatenate(parts, 1), half(x))
    layer = nn.CausalConv(2, 3, 3, rngs=nnx.Rngs(0))
    assert layer.init_state().shape == (2, 2) and layer.init_state((4, 5)).shape == (4, 5, 2, 2)
    assert layer.init_state(1, jnp.float16).dtype == jnp.float16
    assert layer(jnp.asarray(x, jnp.bfloat16), layer.init_state(2))[0].dtype == jnp.float32


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda r: nn.CausalConv(1, 1, (3, 3), rngs=r), r'kernel_size=\(3, 3\): must have 1 '),
        (lambda r: nn.CausalConv(1, 1, 3, padding='SAME', rngs=r), "padding='SAME': is not an "),
        (
            lambda r: nn.CausalConv(1, 1, 3, rngs=r)(jnp.ones((1, 4, 1)), jnp.ones((1, 3, 1))),
            r'state must have shape \(1, 2, 1\), got \(1, 3, 1\)',
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(nnx.Rngs(0))

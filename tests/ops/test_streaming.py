"""Causal convolution by chunks: however a signal is cut, the results joined are the whole's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

import cnn_jax

LENGTH, IN, OUT = 14, 4, 6


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def oracle(x, kernel, strides=1, dilation=1, groups=1, bias=None):
    """The sum itself, in float64; x has one batch axis."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    (_, length, _), (window, per_group, out) = x.shape, kernel.shape
    y = np.zeros((len(x), -(-length // strides), out))
    for o in range(out):
        group = slice(o // (out // groups) * per_group, (o // (out // groups) + 1) * per_group)
        for i in range(y.shape[1]):
            for k in range(window):
                at = i * strides - (window - 1 - k) * dilation
                if at >= 0:
                    y[:, i, o] += x[:, at, group] @ kernel[k, :, o]
    return y if bias is None else y + bias


def streamed(x, cuts, kernel, **options):
    parts, state = [], None
    for chunk in np.split(x, cuts, axis=-2):
        y, state = cnn_jax.conv_stream(chunk, kernel, state, **options)
        parts.append(y)
    return np.concatenate(parts, -2)


CASES = [
    {},
    {'dilation': 3},
    {'strides': 2},
    {'strides': 3, 'dilation': 2, 'groups': 2},
    {'strides': 5},  # beyond the window: some inputs are never seen
    {'groups': 2},
]


@pytest.mark.parametrize('window', [1, 3])
@pytest.mark.parametrize('options', CASES, ids=str)
def test_any_cuts_give_the_whole(window, options):
    x, bias = normal((2, LENGTH, IN)), normal((OUT,), 1)
    kernel = normal((window, IN // options.get('groups', 1), OUT), 2)
    expected = oracle(x, kernel, bias=bias, **options)
    whole = cnn_jax.conv(x, kernel, padding='CAUSAL', bias=bias, **options)
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-5)
    chance = np.random.default_rng(window)
    several = [[], range(1, LENGTH), [0, 0, LENGTH], [2, 4, 6, 7, 8, 12]]
    several += [np.sort(chance.integers(0, LENGTH + 1, 5)) for _ in range(2)]
    for cuts in several:
        found = streamed(x, list(cuts), kernel, bias=bias, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('options', CASES, ids=str)
def test_the_state_has_the_documented_shape_and_holds_the_last_inputs(options):
    x = normal((2, LENGTH, IN))
    kernel = normal((3, IN // options.get('groups', 1), OUT))
    before, stride = 2 * options.get('dilation', 1), options.get('strides', 1)
    for length in range(8):
        y, state = cnn_jax.conv_stream(x[:, :length], kernel, **options)
        kept = before + length % stride
        assert y.shape == (2, -(-length // stride), OUT) and state.shape == (2, kept, IN)
        padded = np.pad(x[:, :length], ((0, 0), (before, 0), (0, 0)))
        np.testing.assert_array_equal(state, padded[:, padded.shape[1] - kept :])


def test_a_signal_may_have_any_number_of_batch_axes():
    x, kernel = normal((2, 3, LENGTH, IN)), normal((3, IN, OUT))
    whole = cnn_jax.conv(x, kernel, padding='CAUSAL')
    np.testing.assert_allclose(streamed(x, [5], kernel), whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(streamed(x[0, 0], [5], kernel), whole[0, 0], rtol=1e-5, atol=1e-5)
    y, state = cnn_jax.conv_stream(x[:0], kernel)
    assert y.shape == (0, 3, LENGTH, OUT) and state.shape == (0, 3, 2, IN)


@pytest.mark.parametrize('cuts', [[1, 2, 3], [7, 8, 8]])
def test_gradients_flow_through_the_state(cuts):
    x, kernel, bias = normal((2, 9, 2)), normal((3, 2, 4), 1), normal((4,), 2)
    weights = normal((2, 5, 4), 3)
    options = {'strides': 2, 'dilation': 2}

    def by_chunks(x, kernel, bias):
        parts, state = [], None
        for chunk in jnp.split(x, cuts, 1):
            y, state = cnn_jax.conv_stream(chunk, kernel, state, bias=bias, **options)
            parts.append(y)
        return (jnp.concatenate(parts, 1) * weights).sum()

    def at_once(x, kernel, bias):
        y = lax.conv_general_dilated(
            x, kernel, (2,), [(4, 0)], rhs_dilation=(2,), dimension_numbers=('NWC', 'WIO', 'NWC')
        )
        return ((y + bias) * weights).sum()

    found = jax.grad(by_chunks, (0, 1, 2))(x, kernel, bias)
    for mine, its in zip(found, jax.grad(at_once, (0, 1, 2))(x, kernel, bias), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-5)
    if cuts == [7, 8, 8]:
        check_grads(by_chunks, (x, kernel, bias), order=1, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize('strides', [1, 2])
def test_jit_scan_and_vmap(strides):
    x, kernel = normal((3, 24, IN)), normal((5, IN, OUT), 1)
    whole = cnn_jax.conv(x, kernel, padding='CAUSAL', strides=strides)

    @jax.jit
    def scanned(x, kernel):
        def step(state, chunk):
            y, state = cnn_jax.conv_stream(chunk, kernel, state, strides=strides)
            return state, y

        chunks = x.reshape(3, 12, 2, IN).swapaxes(0, 1)
        _, y = lax.scan(step, jnp.zeros((3, 4, IN)), chunks)
        return y.swapaxes(0, 1).reshape(3, -1, OUT)

    np.testing.assert_allclose(scanned(x, kernel), whole, rtol=1e-5, atol=1e-5)
    gradient = jax.grad(lambda x, w: jnp.square(scanned(x, w)).sum(), (0, 1))(x, kernel)
    expected = jax.grad(
        lambda x, w: jnp.square(cnn_jax.conv(x, w, padding='CAUSAL', strides=strides)).sum(), (0, 1)
    )(x, kernel)
    for mine, its in zip(gradient, expected, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-4)

    call = jax.jit(jax.vmap(lambda c, s: cnn_jax.conv_stream(c, kernel, s, strides=strides)))
    y, state = call(x[:, :10], jnp.zeros((3, 4, IN)))
    rest, _ = call(x[:, 10:], state)
    np.testing.assert_allclose(jnp.concatenate([y, rest], 1), whole, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_the_whole_in_bfloat16():
    x = jnp.asarray(normal((2, LENGTH, IN)), jnp.bfloat16)
    kernel = jnp.asarray(normal((3, IN, OUT), 1), jnp.bfloat16)
    whole = oracle(np.asarray(x, np.float32), np.asarray(kernel, np.float32))
    parts, state = [], None
    for chunk in jnp.split(x, [1, 2, 9], 1):
        y, state = cnn_jax.conv_stream(chunk, kernel, state)
        assert y.dtype == state.dtype == jnp.bfloat16
        parts.append(y)
    found = np.concatenate([np.asarray(y, np.float32) for y in parts], 1)
    np.testing.assert_allclose(found, whole, rtol=2**-8, atol=1e-2)  # rounded once


@pytest.mark.parametrize(
    ('arguments', 'options', 'message'),
    [
        (((2, 3, 4), (3, 4, 6), (2, 3, 4)), {}, r'state must have shape \(2, 2, 4\), got \(2, 3'),
        (((2, 3, 4), (3, 4, 6), (1, 2, 4)), {}, r'state must have shape \(2, 2, 4\), got \(1, 2'),
        (((2, 3, 4), (3, 4, 6), (2, 4)), {}, r'state must have shape \(2, 2, 4\), got \(2, 4\)'),
        (
            ((2, 3, 4), (3, 4, 6), (2, 1, 4)),
            {'strides': 3},
            r'state must have shape \(2, 2, 4\) \(or up to 4 positions\), got \(2, 1, 4\)',
        ),
        (((2, 3, 4), (3, 3, 4, 6)), {}, 'kernel must have 1 spatial axis'),
        (((2, 3, 4), (3, 5, 6)), {}, 'x has 4 features'),
        (((2, 3, 4), (3, 4, 6)), {'strides': 0}, 'strides must be at least 1, got 0'),
        (((2, 3, 4), (3, 4, 6)), {'dilation': (1, 2)}, 'dilation must be an int or one int'),
        (((2, 3, 4), (3, 4, 6)), {'bias': np.ones(2, np.float32)}, r'bias must have shape \(6,\)'),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        cnn_jax.conv_stream(*(np.ones(shape, np.float32) for shape in arguments), **options)


def test_a_state_of_another_dtype_is_named():
    with pytest.raises(TypeError, match='x: float32, state: bfloat16'):
        cnn_jax.conv_stream(
            jnp.ones((1, 3, 1)), jnp.ones((3, 1, 1)), jnp.zeros((1, 2, 1), jnp.bfloat16)
        )

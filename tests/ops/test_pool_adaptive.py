"""Tests of adaptive and global pools and unpooling, against the oracle and PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.bench.fuzz import pool_oracle
from cnn_jax.ops import pool, unpool
from tests.compilation import x64
from tests.ops.pool_cases import everything
from tests.ops.tolerance import assert_close

# x, output_size
ADAPTIVE = [
    ((2, 7, 3), (3,)),
    ((2, 5, 6, 2), (3, 4)),
    ((2, 6, 8, 2), (3, 2)),  # equal windows
    ((2, 6, 5, 2), (3, 2)),  # equal along one axis only
    ((2, 5, 4, 2), 1),
    ((1, 3, 4, 2), (None, 5)),  # larger than the input
    ((1, 3, 4, 3, 2), (2, 3, 2)),
    ((5, 4, 2), (2, 4)),  # no batch axis
    ((0, 3, 4, 2), (2, 3)),
]


def windows(shape, output_size):
    ndim = len(shape) - 2 if isinstance(output_size, int) else len(output_size)
    wanted = (output_size,) * ndim if isinstance(output_size, int) else output_size
    size = shape[-1 - ndim : -1]
    return [
        pool_oracle.adaptive_windows(n, n if m is None else m)
        for n, m in zip(size, wanted, strict=True)
    ]


@pytest.mark.parametrize(
    'shape, output_size, dtype',
    [(*case, np.float32) for case in ADAPTIVE] + [(*ADAPTIVE[1], jnp.bfloat16)],
    ids=str,
)
def test_adaptive(shape, output_size, dtype):
    axes = windows(shape, output_size)
    ndim = len(axes)
    rng = np.random.default_rng(0)
    y_shape = (*shape[: -1 - ndim], *map(len, axes), shape[-1])
    dy, t = rng.normal(size=y_shape).astype(dtype), rng.normal(size=shape).astype(dtype)
    dy64, t64 = (np.asarray(a, np.float64) for a in (dy, t))
    length = np.prod([max(map(len, along)) for along in axes])

    x = rng.integers(-2, 3, shape).astype(dtype)  # many ties
    run = functools.partial(pool.adaptive_max_pool, output_size=output_size)
    y, dx, dt, _ = everything(run)(x, dy, t)
    expected, at = pool_oracle.max_pool(x, axes)
    np.testing.assert_array_equal(np.asarray(y, np.float64), expected.reshape(y_shape))
    np.testing.assert_array_equal(
        np.asarray(dt, np.float64), pool_oracle.take(t64, at, ndim).reshape(y_shape)
    )
    assert_close(dx, pool_oracle.put(dy64, at, shape, ndim), 2 * length)
    y, indices = run(x, return_indices=True)
    np.testing.assert_array_equal(indices, at.reshape(y_shape))

    x = rng.normal(size=shape).astype(dtype)
    run = functools.partial(pool.adaptive_avg_pool, output_size=output_size)
    y, dx, dt, _ = everything(run)(x, dy, t)
    counts = np.array(1.0)
    for along in axes:
        counts = np.multiply.outer(counts, [len(window) for window in along])
    counts = counts.reshape(-1, 1)
    assert_close(y, (pool_oracle.sum_pool(x, axes) / counts).reshape(y_shape), length)
    assert_close(dt, (pool_oracle.sum_pool(t64, axes) / counts).reshape(y_shape), length)
    flat = dy64.reshape(-1, len(counts), shape[-1]) / counts
    assert_close(dx, pool_oracle.sum_pool_gradient(flat, axes, shape), 2 * length)


@pytest.mark.parametrize('output_size', [(3, 2), (2, 3)], ids=str)  # equal and unequal windows
def test_adaptive_max_of_nan_infinity_and_integers(output_size):
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (3, 6, 4, 2)).astype(np.float32)
    x[0][rng.random(x[0].shape) < 0.3] = np.nan
    x[1] = -np.inf
    expected, at = pool_oracle.max_pool(x, windows(x.shape, output_size))
    y, indices = pool.adaptive_max_pool(x, output_size, return_indices=True)
    np.testing.assert_array_equal(y, expected.reshape(y.shape))
    np.testing.assert_array_equal(indices, at.reshape(y.shape))
    x = rng.integers(-9, 9, (1, 6, 4, 2))
    y = pool.adaptive_max_pool(x, output_size)
    expected, _ = pool_oracle.max_pool(x, windows(x.shape, output_size))
    np.testing.assert_array_equal(y, expected.reshape(y.shape))
    gradient = jax.grad(
        lambda x: pool.adaptive_max_pool(x, output_size).sum() * 1.0, allow_int=True
    )(x)
    assert gradient.dtype == jax.dtypes.float0


def test_adaptive_second_order_and_vmap():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4, 2)).astype(np.float32)
    f = lambda x: (pool.adaptive_max_pool(x, (2, 3)) ** 3).sum()  # noqa: E731
    hessian = jax.jit(lambda x: jax.jvp(jax.grad(f), (x,), (x,))[1])
    # f is homogeneous of degree 3, so  Hessian(x) x = 2 gradient(x)
    np.testing.assert_allclose(hessian(x), 2 * jax.grad(f)(x), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(jax.grad(f))(x), jax.grad(f)(x), rtol=1e-6)


def test_global():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 5, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(pool.global_max_pool(x), x.max((1, 2)))
    np.testing.assert_allclose(pool.global_avg_pool(x), x.mean((1, 2)), rtol=1e-5)
    assert pool.global_avg_pool(x, keepdims=True).shape == (3, 1, 1, 2)
    assert pool.global_max_pool(x, spatial_ndim=1, keepdims=True).shape == (3, 5, 1, 2)
    np.testing.assert_array_equal(pool.global_max_pool(x, spatial_ndim=1), x.max(2))
    np.testing.assert_allclose(pool.global_avg_pool(x[0], spatial_ndim=2), x[0].mean((0, 1)), 1e-5)
    x[:] = 0  # all equal: the first gets the gradient
    gradient = jax.grad(lambda x: pool.global_max_pool(x).sum())(x)
    assert (gradient[:, 0, 0] == 1).all() and gradient.sum() == 6
    # in float16, the sum of 70000 ones would be infinite
    assert pool.global_avg_pool(jnp.ones((1, 70000, 1), jnp.float16)).ravel()[0] == 1


UNPOOLS = [
    # x, window, strides, padding, output_size
    ((2, 6, 3), (2,), None, 0, None),
    ((2, 6, 5, 2), (2, 3), None, 0, (6, 5)),
    ((2, 7, 6, 2), (3, 3), (2, 2), 1, (7, 6)),
    ((1, 4, 3, 5, 2), (2, 2, 2), None, 0, (4, 3, 5)),
    ((4, 6, 2), (2, 2), None, 0, None),
]


@pytest.mark.parametrize('shape, window, strides, padding, output_size', UNPOOLS, ids=str)
def test_unpool(shape, window, strides, padding, output_size):
    ndim = len(window)
    x = np.random.default_rng(0).integers(-3, 4, shape).astype(np.float32)
    y, at = pool.max_pool(x, window, strides, padding, return_indices=True)
    run = lambda y: unpool.max_unpool(y, at, window, strides, padding, output_size)  # noqa: E731
    back = run(y)
    size = output_size or [
        (n - 1) * s + k - 2 * padding
        for n, s, k in zip(y.shape[-1 - ndim : -1], strides or window, window, strict=True)
    ]
    assert back.shape == (*shape[: -1 - ndim], *size, shape[-1])
    flat, places = pool_oracle.flatten(y, ndim), np.asarray(at).reshape(-1, *at.shape[-1 - ndim :])
    places = places.reshape(flat.shape)
    expected, source = np.zeros(pool_oracle.flatten(back, ndim).shape), {}
    for n, o, c in np.ndindex(*flat.shape):
        expected[n, places[n, o, c], c] = flat[n, o, c]
        source[n, places[n, o, c], c] = o  # the last one wins
    np.testing.assert_array_equal(back, expected.reshape(back.shape))
    dback = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
    dy = np.zeros(flat.shape)
    for (n, p, c), o in source.items():
        dy[n, o, c] = dback[n, p, c]
    _, gradient, tangent, _ = everything(run)(y, dback.reshape(back.shape), y)
    np.testing.assert_array_equal(gradient, dy.reshape(y.shape))
    np.testing.assert_array_equal(tangent, back)


def test_unpool_is_the_inverse_of_max_pool_on_its_result():
    x = np.abs(np.random.default_rng(0).normal(size=(2, 6, 4, 3))).astype(np.float32)
    y, at = pool.max_pool(x, 2, return_indices=True)
    np.testing.assert_array_equal(pool.max_pool(unpool.max_unpool(y, at, 2), 2), y)
    integers = (y * 100).astype(jnp.int32)
    assert unpool.max_unpool(integers, at, 2).dtype == np.int32
    assert unpool.max_unpool(y[:0], at[:0], 2).shape == (0, 6, 4, 3)


@pytest.mark.parametrize('dtype', ['int4', 'uint4', 'int8', 'uint8', 'int16', 'uint32', 'int64'])
def test_unpool_by_indices_of_any_integers(dtype):
    """Tests dtypes that cannot hold the number of positions, and indices beyond 32 bits."""
    y, at = np.arange(1.0, 8.0).reshape(1, 7, 1), np.arange(1, 8).reshape(1, 7, 1)
    expected = np.zeros(350)
    expected[1:8] = range(1, 8)
    with x64():
        narrow = jnp.asarray(at).astype(dtype)
        for f in (unpool.max_unpool, jax.jit(unpool.max_unpool, static_argnums=2)):
            np.testing.assert_array_equal(f(y, narrow, (50,)).ravel(), expected)
        if dtype == 'int64':
            wide = jax.jit(unpool.max_unpool, static_argnums=2)(y, narrow + 2**32, (50,))
            assert not wide.any()


def test_unpool_drops_indices_out_of_range_that_are_not_known_while_tracing():
    y = jnp.arange(1.0, 4.0).reshape(1, 3, 1)
    at = jnp.asarray([-1, 2, 6]).reshape(1, 3, 1)
    found = jax.jit(lambda y, at: unpool.max_unpool(y, at, 2))(y, at)
    np.testing.assert_array_equal(found.ravel(), [0, 0, 2, 0, 0, 0])


@pytest.mark.parametrize('shape, output_size', [ADAPTIVE[i] for i in (1, 5, 6)], ids=str)
def test_torch_agrees(shape, output_size):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra: compare)')
    ndim = len(windows(shape, output_size))
    flat = np.random.default_rng(0).normal(size=shape)
    t = torch.tensor(flat.reshape(-1, *shape[-1 - ndim :])).movedim(-1, 1).contiguous()
    average = getattr(torch.nn.functional, f'adaptive_avg_pool{ndim}d')(t, output_size)
    maximum, at = getattr(torch.nn.functional, f'adaptive_max_pool{ndim}d')(
        t, output_size, return_indices=True
    )
    with x64():
        both = jax.jit(
            lambda x: (
                *pool.adaptive_max_pool(x, output_size, return_indices=True),
                pool.adaptive_avg_pool(x, output_size),
            )
        )
        y, indices, mean = both(flat)
    for ours, theirs in ((y, maximum), (indices, at), (mean, average)):
        np.testing.assert_allclose(
            ours.reshape(-1, *ours.shape[-1 - ndim :]), theirs.movedim(1, -1)
        )

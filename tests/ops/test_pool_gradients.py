"""Tests of the gradient of a maximum: ties, NaN, derivatives of any order, vmap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from cnn_jax.bench.fuzz import pool_oracle
from cnn_jax.ops import pool, pool_kernels
from tests.ops.pool_cases import everything

# A call that each kernel supports, with overlapping windows except for 'reshape'.
CALLS = {
    'reshape': {'window': (2, 2)},
    'shift': {'window': (3, 2), 'strides': (2, 1), 'padding': 1},
    'reduce_window': {'window': (3, 2), 'strides': (2, 1), 'padding': 1},
}
KERNELS = pytest.mark.parametrize('kernel', CALLS)
SHAPE = (2, 4, 6, 2)


def test_every_kernel_is_here():
    assert set(CALLS) == set(pool_kernels.KERNELS)


def winners(x, window, strides=None, padding=0):
    axes = [
        pool_oracle.axis_windows(n, k, s, (padding, padding), 1, False)
        for n, k, s in zip(x.shape[1:-1], window, strides or window, strict=True)
    ]
    return pool_oracle.max_pool(x, axes)[1]


@KERNELS
@pytest.mark.parametrize('values', ['equal', '-inf', 'nan', 'many nan', 'inf', 'signed zeros'])
def test_winners(kernel, values):
    """Checks that the first of equal elements wins, or the last NaN.

    Padding never wins, even if all elements are -inf.
    """
    rng = np.random.default_rng(0)
    x = {
        'equal': np.ones(SHAPE),
        '-inf': np.where(rng.random(SHAPE) < 0.7, -np.inf, -5),
        'nan': np.where(rng.random(SHAPE) < 0.2, np.nan, rng.integers(0, 2, SHAPE)),
        'many nan': np.full(SHAPE, np.nan),
        'inf': np.where(rng.random(SHAPE) < 0.5, np.inf, rng.normal(size=SHAPE)),
        'signed zeros': np.where(rng.random(SHAPE) < 0.5, -0.0, 0.0),
    }[values].astype(np.float32)
    expected = winners(x, **CALLS[kernel])
    f = functools.partial(pool.max_pool, **CALLS[kernel], implementation=kernel)
    y, indices = f(x, return_indices=True)
    np.testing.assert_array_equal(indices.reshape(expected.shape), expected)
    np.testing.assert_array_equal(
        y.reshape(expected.shape), pool_oracle.take(x, expected, 2).astype(np.float32)
    )
    np.testing.assert_array_equal(f(x), y)
    dy = rng.normal(size=y.shape).astype(np.float32)
    dx = everything(f)(x, dy, x)[1]
    np.testing.assert_allclose(dx, pool_oracle.put(dy, expected, SHAPE, 2), rtol=1e-6, atol=1e-6)


@KERNELS
def test_second_order(kernel):
    """Checks the Hessian-vector product of f(x) = sum w y^3, which is put(6 w y take(v))."""
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    at = winners(x, **CALLS[kernel])
    y, tangent = pool_oracle.take(x, at, 2), pool_oracle.take(v, at, 2)
    w = rng.normal(size=at.shape).astype(np.float32)

    def f(x):
        y = pool.max_pool(x, **CALLS[kernel], implementation=kernel)
        return (w * y.reshape(w.shape) ** 3).sum()

    expected = pool_oracle.put(6 * w * y * tangent, at, SHAPE, 2)
    forward_over_reverse = jax.jit(lambda x, v: jax.jvp(jax.grad(f), (x,), (v,))[1])
    reverse_over_forward = jax.jit(jax.grad(lambda x, v: jax.jvp(f, (x,), (v,))[1]))
    for product in (forward_over_reverse, reverse_over_forward):
        np.testing.assert_allclose(product(x, v), expected, rtol=1e-5, atol=1e-5)


@KERNELS
@pytest.mark.parametrize('op', ['max_pool', 'avg_pool'])
def test_vmap(kernel, op):
    x = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    f = functools.partial(getattr(pool, op), **CALLS[kernel], implementation=kernel)
    weights = np.arange(1, 4, dtype=np.float32)
    gradient = jax.grad(lambda x, w: w * (f(x) ** 2).sum())
    mapped = jax.jit(jax.vmap(lambda x, w: (f(x), gradient(x, w)), in_axes=(2, 0)))
    y, dx = mapped(np.moveaxis(x, 0, 2), weights)
    flat = x.reshape(-1, *SHAPE[1:])
    np.testing.assert_array_equal(y.reshape(-1, *y.shape[2:]), f(flat))
    expected = gradient(flat, 1.0).reshape(x.shape) * weights[:, None, None, None, None]
    np.testing.assert_allclose(dx, expected, rtol=1e-5, atol=1e-6)


@KERNELS
def test_no_select_and_scatter(kernel):
    """Checks that gradients avoid XLA's select_and_scatter, which is nondeterministic on GPUs."""
    f = lambda x: pool.max_pool(x, **CALLS[kernel], implementation=kernel).sum()  # noqa: E731
    for transformed in (f, jax.grad(f), jax.vmap(jax.grad(f))):
        x = jnp.zeros((2, *SHAPE) if transformed is not f else SHAPE)
        text = jax.jit(transformed).lower(x).as_text()
        assert 'select_and_scatter' not in text


@KERNELS
def test_shard_map(kernel):
    """Checks kernels in shard_map, where constant initial values would not be sharded like x."""
    mesh = jax.make_mesh((1,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    f = functools.partial(pool.max_pool, **CALLS[kernel], implementation=kernel)
    g = lambda x: jax.grad(lambda x: (f(x) ** 2).sum())(x)  # noqa: E731
    spec = PartitionSpec('data')
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    sharded = jax.jit(jax.shard_map(g, mesh=mesh, in_specs=spec, out_specs=spec))
    np.testing.assert_allclose(sharded(x), g(x), rtol=1e-6)


def test_lp_pool_is_flat_where_all_is_zero():
    f = lambda x: pool.lp_pool(x, 2, (2,)).sum()  # noqa: E731
    x = np.array([[[0], [0], [3], [4]]], np.float32)
    np.testing.assert_allclose(jax.grad(f)(x).ravel(), [0, 0, 0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize('p', [0.5, 1, 1.5, 2, 2.5, 3, 4])
def test_second_derivative_of_lp_pool(p):
    """Checks the Hessian (p - 1) (diag |u|^(p-2) - v v^T) / y.

    Here u = x / y and v = sign(u) |u|^(p-1).
    """
    x = np.array([0.5, -2, 1.5, -0.25], np.float32)
    if p >= 2:
        x[2] = 0
    f = lambda x: pool.lp_pool(x.reshape(1, 4, 1), p, (4,)).sum()  # noqa: E731
    y = (np.abs(x.astype(np.float64)) ** p).sum() ** (1 / p)
    u = x / y
    v = np.sign(u) * np.abs(u) ** (p - 1)
    np.testing.assert_allclose(f(x), y, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(f)(x), v, rtol=1e-5)
    expected = (p - 1) * (np.diag(np.abs(u) ** (p - 2)) - np.outer(v, v)) / y
    hessian = jax.jit(jax.hessian(f))
    np.testing.assert_allclose(hessian(x), expected, rtol=1e-4, atol=1e-5)
    for zeros in (np.zeros(4, np.float32), np.array([0, 3, 0, 1], np.float32)):
        assert np.isfinite(jax.grad(f)(zeros)).all() and np.isfinite(hessian(zeros)).all()
        assert (jax.grad(f)(zeros)[zeros == 0] == 0).all()


def test_averages_propagate_what_is_not_finite():
    x = np.array([[[np.inf], [1], [np.nan], [2], [3], [5]]], np.float32)
    for kernel in pool_kernels.KERNELS:
        y = np.asarray(pool.avg_pool(x, (2,), implementation=kernel)).ravel()
        np.testing.assert_array_equal(y, [np.inf, np.nan, 4])

"""Tests that pools and patches give the same values and gradients under all JAX transforms."""

import contextlib
import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.jet import jet
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cnn_jax.ops import patches, pool, unpool
from cnn_jax.ops.operands import add_bias
from tests.compilation import x64

SHAPE = (4, 6, 4, 4)
X = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
X[0, :, :2] = 0
FOUR = X.reshape(2, 2, *SHAPE[1:])


def max_pool(kernel, *window):
    return functools.partial(
        pool.max_pool, window=window, strides=(2, 2), return_indices=True, implementation=kernel
    )


def places(x):
    """Returns indices of 24 elements into 96 positions; the first and the last index are equal."""
    rows = (np.arange(24, dtype=np.int32) * 4 % 92).reshape(6, 4, 1)
    return jnp.where(x == x, np.expand_dims(rows, tuple(range(x.ndim - 3))), np.int32(0))


# Each takes x (*batch, 6, 4, 4). If there are several results, the first is differentiated.
OPS = {
    'max_pool reshape': max_pool('reshape', 2, 2),
    'max_pool shift': max_pool('shift', 3, 2),
    'max_pool reduce_window': max_pool('reduce_window', 3, 2),
    'avg_pool shift': lambda x: pool.avg_pool(
        x, (3, 2), 1, 1, count_include_pad=False, implementation='shift'
    ),
    'avg_pool reduce_window': lambda x: pool.avg_pool(
        x, (2, 2), 1, 1, dilation=2, implementation='reduce_window'
    ),
    'lp_pool': lambda x: pool.lp_pool(x, 2.5, (3, 2), 2, padding=1),
    'adaptive_max_pool': lambda x: pool.adaptive_max_pool(x, (4, 3), return_indices=True),
    'adaptive_avg_pool': lambda x: pool.adaptive_avg_pool(x, (4, 3)),
    'global_max_pool': lambda x: pool.global_max_pool(x, 2),
    'global_avg_pool': lambda x: pool.global_avg_pool(x, 2),
    'max_unpool': lambda x: unpool.max_unpool(x, places(x), (2, 2)),
    'unfold': lambda x: patches.unfold(x, (2, 3), strides=2, padding=1),
    'fold': lambda x: patches.fold(x, (7, 5), (2, 2)),
    **{
        f'pad {mode}': functools.partial(patches.pad, padding=((1, 2), (3, 0)), mode=mode)
        for mode in ('zeros', 'reflect', 'replicate')
    },
    'add_bias': lambda x: add_bias(x, jnp.asarray([1, 2, 3, 4], x.dtype)),
}
each = pytest.mark.parametrize('name', OPS)


def both(f):
    """Returns x -> (f(x), a gradient that depends on every element of the first result)."""

    def first(x):
        y = f(x)
        return y[0] if isinstance(y, tuple) else y

    return lambda x: (f(x), jax.grad(lambda x: (first(x) ** 2).sum())(x))


@functools.cache
def plain(name):
    return jax.tree.map(np.asarray, jax.jit(both(OPS[name]))(X))


def assert_same(actual, name, *batch):
    """Asserts that the results equal those of plain jit, except for the batch axes."""
    expected = jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]) if batch else a, plain(name))
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == e.shape and a.dtype == e.dtype
        np.testing.assert_allclose(np.asarray(a), e, rtol=1e-5, atol=1e-6)


@each
@pytest.mark.parametrize('check_vma', [True, False])
def test_shard_map(name, check_vma):
    mesh = jax.make_mesh((2,), ('d',), axis_types=(AxisType.Auto,))
    options = {'mesh': mesh, 'in_specs': P('d'), 'out_specs': P('d'), 'check_vma': check_vma}
    assert_same(jax.jit(jax.shard_map(both(OPS[name]), **options))(X), name)


@each
def test_pmap_vmap_and_scan(name):
    f = both(OPS[name])
    assert_same(jax.pmap(f)(FOUR), name, 2, 2)
    scanned = jax.jit(lambda x: jax.lax.scan(lambda _, x: (None, jax.vmap(f, 1, 1)(x)), None, x))
    assert_same(scanned(FOUR[:, :, None])[1], name, 2, 2, 1)
    empty = jax.jit(jax.vmap(f))(X[None][:0])
    for actual, full in zip(*map(jax.tree.leaves, (empty, plain(name))), strict=True):
        assert actual.shape == (0, *full.shape)


@each
def test_gradient_of_vmap(name):
    """Maps an axis that is not the first; a derivative that moves it goes unnoticed in jit."""
    weights = np.asarray([1, 3], np.float32)

    def loss(x):
        y = jax.tree.leaves(jax.vmap(OPS[name], 1, 1)(x))[0]
        return (jnp.moveaxis(y, 1, -1) ** 2 * weights).sum()

    dx = jax.jit(jax.grad(loss))(FOUR)
    expected = plain(name)[1].reshape(FOUR.shape) * weights.reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(dx, expected, rtol=1e-5, atol=1e-6)


@each
@pytest.mark.parametrize('policy', ['nothing_saveable', 'everything_saveable'])
def test_checkpoint(name, policy):
    f = jax.checkpoint(OPS[name], policy=getattr(jax.checkpoint_policies, policy))
    assert_same(jax.jit(both(f))(X), name)


@each
def test_strict_settings(name):
    x = jax.device_put(X)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.debug_nans(True))
        stack.enter_context(jax.transfer_guard('disallow'))
        stack.enter_context(jax.numpy_rank_promotion('raise'))
        stack.enter_context(jax.numpy_dtype_promotion('strict'))
        actual = jax.jit(both(OPS[name]))(x)
    assert_same(actual, name)


@each
def test_donated_and_64_bit_types(name):
    with x64():
        assert_same(jax.jit(both(OPS[name]), donate_argnums=0)(jax.device_put(X)), name)


@pytest.mark.parametrize('name', ['max_pool reduce_window', 'max_unpool', 'lp_pool'])
def test_without_jit(name):
    with jax.disable_jit():
        assert_same(both(OPS[name])(X), name)


@each
def test_symbolic_batch(name):
    export = jax.export.export(jax.jit(both(OPS[name])), platforms=['cpu', 'tpu', 'cuda'])
    shape = jax.export.symbolic_shape('a, b, 6, 4, 4')
    exported = export(jax.ShapeDtypeStruct(shape, np.float32))
    for a, b in ((2, 2), (4, 1)):
        assert_same(exported.call(X.reshape(a, b, *SHAPE[1:])), name, a, b)


MESHES = {
    'features': ((2,), P(None, None, None, 'd'), X),
    'two batch axes': ((2, 2), P('d', 'e'), FOUR),
}


@each
@pytest.mark.parametrize('over', MESHES)
def test_explicit_mesh(name, over):
    if name == 'fold' and over == 'features':
        pytest.skip('the last axis of its operand is not only features')
    sizes, spec, x = MESHES[over]
    mesh = jax.make_mesh(sizes, ('d', 'e')[: len(sizes)], (AxisType.Explicit,) * len(sizes))
    with jax.set_mesh(mesh):
        actual = jax.jit(both(OPS[name]))(jax.device_put(x, NamedSharding(mesh, spec)))
    assert_same(actual, name, *x.shape[:-3])
    for a in jax.tree.leaves(actual):
        assert set(jax.typeof(a).sharding.spec) >= set(spec)


def test_explicit_mesh_over_space():
    """Checks that it works if every intermediate array can be split; JAX refuses it otherwise."""
    mesh = jax.make_mesh((2,), ('d',), (AxisType.Explicit,))
    f = both(lambda x: pool.max_pool(x, (3, 2), implementation='reshape'))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, P(None, 'd')))
        actual = jax.jit(f)(x)
        with pytest.raises(
            Exception, match='on sharded dims where out dim|reshape is not supported'
        ):
            pool.max_pool(x, 3, 2)  # reads five of six elements
    assert jax.typeof(actual[0]).sharding.spec[1] == 'd'
    for a, e in zip(actual, f(X), strict=True):
        np.testing.assert_allclose(np.asarray(a), e, rtol=1e-6)


@pytest.mark.parametrize('name', [name for name in OPS if 'max' not in name])
def test_jet(name):
    """Tests jet along x + t v + t^2 w / 2.

    JAX's jet does not support jax.custom_jvp, which maxima use, or the scatter of max_unpool.
    """
    v, w = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    f = OPS[name]

    @jax.jit
    def expected(x):
        slope = lambda x: jax.jvp(f, (x,), (v,))[1]  # noqa: E731
        second, bent = jax.jvp(slope, (x,), (v,))[1], jax.jvp(f, (x,), (w,))[1]
        return f(x), slope(x), second + bent

    y, terms = jax.jit(lambda x: jet(f, (x,), ((v, w),)))(X)
    for a, e in zip((y, *terms), expected(X), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-4)

"""Tests that invalid input raises the same error inside and outside jit, before compilation."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.ops import patches, pool, unpool
from tests.compilation import x64

X = np.zeros((2, 5, 6, 3), np.float32)
UNPOOL = (np.zeros((1, 2, 3, 1), np.float32), np.zeros((1, 2, 3, 1), np.int32))

# function, arguments, keywords, error, pattern: argument ... value (or what is valid)
BAD = [
    # x
    (pool.max_pool, (X[0, 0, 0], (2,)), {}, ValueError, r'x must have 1 spatial axes.*\(3,\)'),
    (pool.max_pool, (X[0], (2, 2, 2)), {}, ValueError, r'x must have 3 .*\(5, 6, 3\)'),
    (pool.max_pool, (X[0, 0], 2), {}, ValueError, r'window must have 1 to 3.*got 2.*\(6, 3\)'),
    (pool.max_pool, (X[:, :0], 2), {}, ValueError, r'x .*size 0.*\(2, 0, 6, 3\)'),
    (pool.max_pool, (X > 0, 2), {}, TypeError, 'x .*bool'),
    (pool.max_pool, (X.astype(complex), 2), {}, TypeError, 'x .*complex'),
    (pool.avg_pool, (X.astype(np.int32), 2), {}, TypeError, 'x must be floating.*int32'),
    (pool.lp_pool, (X.astype(np.int32), 2, 2), {}, TypeError, 'x must be floating.*int32'),
    (pool.adaptive_avg_pool, (X.astype(np.int8), 2), {}, TypeError, 'x must be floating.*int8'),
    (pool.global_avg_pool, (X.astype(np.int8),), {}, TypeError, 'x must be floating.*int8'),
    # window
    (pool.max_pool, (X, 0), {}, ValueError, 'window must be at least 1, got 0'),
    (pool.max_pool, (X, (2, -1)), {}, ValueError, r'window\[1\] must be at least 1, got -1'),
    (pool.max_pool, (X, 2.0), {}, TypeError, 'window .*2.0'),
    (pool.max_pool, (X, True), {}, TypeError, 'window .*True'),
    (pool.max_pool, (X, '2'), {}, TypeError, "window .*'2'"),
    (pool.max_pool, (X, (2,) * 4), {}, ValueError, r'window must have 1 to 3.*\(2, 2, 2, 2\)'),
    (pool.max_pool, (X, ()), {}, ValueError, r'window must have 1 to 3.*\(\)'),
    (pool.max_pool, (X, (6, 2)), {}, ValueError, 'window spans 6 .*axis 0.*only 5'),
    (pool.max_pool, (X, 2), {'dilation': 5}, ValueError, 'window spans 6 .*axis 0.*only 5'),
    (pool.avg_pool, (X, (9, 2), 1, (1, 0)), {'ceil_mode': True}, ValueError, 'spans 9.*only 7'),
    # strides and dilation
    (pool.max_pool, (X, 2, 0), {}, ValueError, 'strides must be at least 1, got 0'),
    (pool.max_pool, (X, 2, -2), {}, ValueError, 'strides must be at least 1, got -2'),
    (pool.avg_pool, (X, 2, 1.5), {}, TypeError, 'strides .*1.5'),
    (pool.avg_pool, (X, 2, False), {}, TypeError, 'strides .*False'),
    (pool.avg_pool, (X, 2, (1, 2, 3)), {}, ValueError, r'strides .*\(2\).*\(1, 2, 3\)'),
    (pool.max_pool, (X, 2), {'dilation': 0}, ValueError, 'dilation must be at least 1, got 0'),
    # padding
    (pool.max_pool, (X, 3, 2, 2), {}, ValueError, 'padding on spatial axis 0 .*0 to 1.*got 2'),
    (pool.max_pool, (X, 3, 2, -1), {}, ValueError, 'padding on spatial axis 0 .*got -1'),
    (pool.max_pool, (X, 3, 2, ((0, 3), (0, 0))), {}, ValueError, 'padding on .*axis 0 .*0 to 2'),
    (pool.max_pool, (X, 3, 2, ((0, 0), (-1, 0))), {}, ValueError, 'padding on spatial axis 1'),
    (pool.max_pool, (X, 3, 2, 'FULL'), {}, ValueError, "padding must be one of.*'FULL'"),
    (pool.avg_pool, (X, 3, 2, (1, 1, 1)), {}, ValueError, r'padding .*\(1, 1, 1\)'),
    (pool.avg_pool, (X, 3, 2, 0.5), {}, TypeError, 'padding .*0.5'),
    # other arguments
    (pool.max_pool, (X, 2), {'ceil_mode': 1}, TypeError, 'ceil_mode must be True or False, got 1'),
    (pool.avg_pool, (X, 2), {'count_include_pad': 'no'}, TypeError, "count_include_pad .*'no'"),
    (pool.avg_pool, (X, 2), {'divisor_override': 0}, ValueError, 'divisor_override must not be 0'),
    (pool.avg_pool, (X, 2), {'divisor_override': 2.5}, TypeError, 'divisor_override .*2.5'),
    (pool.avg_pool, (X, 2), {'divisor_override': True}, TypeError, 'divisor_override .*True'),
    (pool.avg_pool, (X, 2), {'dilation': 0}, ValueError, 'dilation must be at least 1, got 0'),
    (
        pool.avg_pool,
        (X[:, :2, :2], 2, 1, 1),
        {'dilation': 3, 'count_include_pad': False},
        ValueError,
        'count_include_pad=False .*only padding',
    ),
    (pool.lp_pool, (X, 2, 2), {'dilation': 5}, ValueError, 'window spans 6 .*axis 0.*only 5'),
    (pool.lp_pool, (X, 2, 3), {'padding': 2}, ValueError, 'padding on .*axis 0 .*0 to 1.*got 2'),
    (pool.lp_pool, (X, 0, 2), {}, ValueError, 'norm_type must be finite and greater than 0, got 0'),
    (pool.lp_pool, (X, np.inf, 2), {}, ValueError, 'norm_type .*inf'),
    (pool.lp_pool, (X, '2', 2), {}, TypeError, "norm_type must be a number, got '2'"),
    (pool.lp_pool, (X, True, 2), {}, TypeError, 'norm_type must be a number, got True'),
    (pool.max_pool, (X, 2), {'implementation': 'laxx'}, ValueError, "unknown .* 'laxx' of max_"),
    (pool.max_pool, (X, 2, 1), {'implementation': 'reshape'}, ValueError, 'reshape.*strides'),
    (pool.max_pool, (X, 3, 3, 1), {'implementation': 'reshape'}, ValueError, 'reshape.*padding'),
    (
        pool.max_pool,
        (X, 2, 2),
        {'dilation': 2, 'implementation': 'reshape'},
        ValueError,
        'reshape.*dilation',
    ),
    (
        pool.max_pool,
        (X, 2),
        {'ceil_mode': True, 'implementation': 'reshape'},
        ValueError,
        'reshape.*ceil_mode',
    ),
    (
        pool.max_pool,
        (np.zeros((1, 70, 1)), (65,)),
        {'implementation': 'shift'},
        ValueError,
        r'shift.*at most 64 taps.*\(65,\)',
    ),
    (
        pool.max_pool,
        (X[:, :2, :2], 2, 1, 1, 3),
        {'return_indices': True},
        ValueError,
        'return_indices .*only padding',
    ),
    # adaptive and global
    (pool.adaptive_max_pool, (X, 0), {}, ValueError, 'output_size must be at least 1, got 0'),
    (pool.adaptive_max_pool, (X, (2, 2.5)), {}, TypeError, r'output_size\[1\] .*2.5'),
    (pool.adaptive_avg_pool, (X, (2,) * 4), {}, ValueError, 'output_size must have 1 to 3'),
    (pool.adaptive_avg_pool, (X[:, :0], 2), {}, ValueError, r'x .*size 0'),
    (pool.global_max_pool, (X, 0), {}, ValueError, 'spatial_ndim must be at least 1, got 0'),
    (pool.global_max_pool, (X, 4), {}, ValueError, 'spatial_ndim'),
    (pool.global_avg_pool, (X, True), {}, TypeError, 'spatial_ndim .*True'),
    (pool.global_avg_pool, (X[0, 0],), {}, ValueError, r'spatial_ndim .*\(6, 3\)'),
    # unpool
    (unpool.max_unpool, (*UNPOOL, 2, 2, 2), {}, ValueError, 'padding .*2'),
    (unpool.max_unpool, (*UNPOOL, 2), {'output_size': (6, 6)}, ValueError, 'axis 0 .*3 to 5.*6'),
    (unpool.max_unpool, (*UNPOOL, 2), {'output_size': (4, 4)}, ValueError, 'axis 1 .*5 to 7.*4'),
    (unpool.max_unpool, (UNPOOL[0], X, 2), {}, TypeError, 'indices must be integers.*float32'),
    (unpool.max_unpool, (X, UNPOOL[1], 2), {}, ValueError, r'indices .*\(2, 5, 6, 3\).*\(1, 2, 3'),
    # patches
    (patches.pad, (X, (1, 2, 3, 4)), {}, ValueError, r'padding must have 1 to 3'),
    (patches.pad, (X, 1.5), {}, TypeError, 'padding .*1.5'),
    (patches.pad, (X, 1, 'mirror'), {}, ValueError, "mode must be one of.*'mirror'"),
    (patches.pad, (X, (5, 0), 'reflect'), {}, ValueError, "axis 0 .*at most 4 .*'reflect'.*5"),
    (patches.pad, (X, (0, 7), 'circular'), {}, ValueError, "axis 1 .*at most 6 .*'circular'.*7"),
    (patches.pad, (X, -1, 'replicate'), {}, ValueError, 'padding .*at least 0, got -1'),
    (patches.pad, (X, -3), {}, ValueError, 'axis 0 must leave a size .* for size 5'),
    (patches.pad, (X, 1), {'value': '1'}, TypeError, "value must be a number, got '1'"),
    (patches.pad, (X, 1), {'value': True}, TypeError, 'value must be a number, got True'),
    (patches.pad, (X, 1, 'reflect', 2), {}, ValueError, "value .*'zeros'.*got 2 .*'reflect'"),
    (patches.pad, (X.astype(np.int32), 1), {'value': 0.5}, TypeError, 'value must be .*int.*0.5'),
    (patches.pad, (X.astype(np.int8), 1), {'value': 128}, ValueError, 'value .*-128 to 127.*128'),
    (patches.unfold, (X, 2), {'strides': 0}, ValueError, 'strides must be at least 1, got 0'),
    (patches.unfold, (X, 2), {'padding': -1}, ValueError, 'padding must not be negative, got -1'),
    (patches.unfold, (X, 6), {}, ValueError, '6 positions on spatial axis 0.*5'),
    (patches.unfold, (X, 2.0), {}, TypeError, 'window .*2.0'),
    (patches.fold, (X, 6, 2), {}, ValueError, r'multiple of the 4 .*\(2, 5, 6, 3\)'),
    (patches.fold, (X, 6, 1), {}, ValueError, r'patches must have spatial axes \(6, 6\).*\(2, 5'),
    (patches.fold, (X, (5, 0), 1), {}, ValueError, r'output_size\[1\] .*got 0'),
]


@pytest.mark.parametrize(
    'f, arguments, options, error, pattern',
    BAD,
    ids=[f'{i}-{bad[0].__name__}' for i, bad in enumerate(BAD)],
)
def test_bad_input(f, arguments, options, error, pattern):
    arrays = [a for a in arguments if isinstance(a, np.ndarray)]
    others = arguments[len(arrays) :]
    with pytest.raises(error) as outside:
        f(*arguments, **options)
    with pytest.raises(error) as inside:
        jax.jit(lambda *arrays: f(*arrays, *others, **options))(*arrays)
    assert str(outside.value) == str(inside.value)
    assert re.search(pattern, str(outside.value)), str(outside.value)


def test_nothing_compiles_before_an_error(caplog):
    # JAX arrays, because moving a NumPy array to a device may compile a program
    calls = [[jnp.asarray(a) if isinstance(a, np.ndarray) else a for a in bad[1]] for bad in BAD]
    with jax.log_compiles(True):
        for (f, _, options, error, _), arguments in zip(BAD, calls, strict=True):
            with pytest.raises(error):
                f(*arguments, **options)
    assert 'Compiling' not in caplog.text


def test_a_traced_argument_is_named():
    with pytest.raises(TypeError, match='window must be a static int'):
        jax.jit(lambda x, k: pool.max_pool(x, k))(X, 2)


@pytest.mark.parametrize('bad', [2.0, True, [2.0, 2.0]], ids=str)
def test_arrays_that_are_no_integers(bad):
    for value in (np.array(bad), jnp.array(bad)):
        with pytest.raises(TypeError, match=r'window(\[0\])? must be an? (static )?int, got'):
            pool.max_pool(X, value)
    with pytest.raises(TypeError, match=r'strides\[0\] must be a static int'):
        jax.jit(lambda x, s: pool.max_pool(x, 2, s))(X, np.array([2, 2]))


@pytest.mark.parametrize(
    'two', [np.int64(2), np.array(2), jnp.array(2), np.array([2, 2], np.uint8), jnp.array([2, 2])]
)
def test_integers_of_numpy_and_jax(two):
    """Tests these in place of an int or a tuple, in every function."""
    calls = [
        lambda k: pool.max_pool(X, k),
        lambda k: pool.avg_pool(X, 4, k, k, dilation=1),
        lambda k: pool.lp_pool(X, 2, 2, 1, dilation=k),
        lambda k: pool.adaptive_avg_pool(X, k),
        lambda k: pool.adaptive_max_pool(X, k),
        lambda k: unpool.max_unpool(*UNPOOL, k, k),
        lambda k: patches.pad(X, k),
        lambda k: patches.unfold(X, k, strides=k, padding=k, dilation=k),
        lambda k: patches.fold(np.ones((1, 1, 1, 4)), k, k, strides=k),
    ]
    for call in calls:
        np.testing.assert_array_equal(call(two), call(2))
    if two.ndim == 0:
        np.testing.assert_array_equal(pool.max_pool(X, (2, two)), pool.max_pool(X, 2))
        assert pool.global_avg_pool(X, two).shape == (2, 3)
        np.testing.assert_array_equal(
            pool.avg_pool(X, 2, divisor_override=two), pool.avg_pool(X, 2, divisor_override=2)
        )
    else:
        pairs = np.stack([two, two])
        np.testing.assert_array_equal(pool.avg_pool(X, 4, 1, pairs), pool.avg_pool(X, 4, 1, 2))


def test_named_padding_that_is_longer_than_half_a_window():
    np.testing.assert_array_equal(
        pool.max_pool(X[0], (3,), 1, 'CAUSAL'), pool.max_pool(X[0], (3,), 1, ((2, 0),))
    )


BIG = jax.ShapeDtypeStruct((1, 2**16, 2**15, 1), np.int8)
POOLED = jax.ShapeDtypeStruct((1, 2**15, 2**14, 1), np.int8)
POOLED_INDICES = jax.ShapeDtypeStruct(POOLED.shape, np.int32)


@pytest.mark.parametrize(
    'f, arguments',
    [
        (lambda x: pool.max_pool(x, 2, return_indices=True), (BIG,)),
        (lambda x: pool.adaptive_max_pool(x, (5, 5), return_indices=True), (BIG,)),
        (lambda x, i: unpool.max_unpool(x, i, 2), (POOLED, POOLED_INDICES)),
        (jax.grad(lambda x: pool.global_max_pool(x).sum()), (BIG.update(dtype=np.float32),)),
    ],
    ids=['max_pool', 'adaptive_max_pool', 'max_unpool', 'gradient of global_max_pool'],
)
def test_more_positions_than_int32_can_number(f, arguments):
    with pytest.raises(ValueError, match='2147483648 positions, more than int32 can number'):
        jax.eval_shape(f, *arguments)
    with x64():
        result = jax.eval_shape(f, *arguments)
    if isinstance(result, tuple):
        assert result[1].dtype == np.int64


SYMBOLIC = {
    'maximum': lambda x: pool.max_pool(x, 3, 2, padding=1),
    'gradient': jax.grad(lambda x: (pool.max_pool(x, 2) ** 2).sum()),
    'same size': lambda x: pool.max_pool(x, 3, 1, padding='SAME'),
    'average': lambda x: pool.avg_pool(x, (2, 3), padding=1),
    'own divisor': lambda x: pool.avg_pool(x, 2, padding=1, divisor_override=3),
    'global': pool.global_avg_pool,
    'to one': lambda x: pool.adaptive_avg_pool(x, 1),
}


@pytest.mark.parametrize('f', SYMBOLIC.values(), ids=SYMBOLIC)
def test_symbolic_spatial_axes(f):
    shape = jax.export.symbolic_shape('b, h, w, 3')
    exported = jax.export.export(jax.jit(f))(jax.ShapeDtypeStruct(shape, np.float32))
    for size in ((2, 9, 6), (1, 8, 7)):
        x = np.random.default_rng(0).standard_normal((*size, 3)).astype(np.float32)
        np.testing.assert_allclose(exported.call(x), f(x), rtol=1e-6, atol=1e-6)


def test_ceil_mode_of_symbolic_sizes_needs_to_know_the_last_window():
    def apply(shape):
        x = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), np.float32)
        return jax.eval_shape(lambda x: pool.max_pool(x, 3, 2, ceil_mode=True), x)

    h = apply('2, 4*h, 6, 3').shape[1]
    assert str(h) == '2*h'
    with pytest.raises(ValueError, match=r'ceil_mode needs spatial axes of static sizes.*\(h, 6\)'):
        apply('2, h, 6, 3')


def test_symbolic_spatial_axes_that_must_be_known():
    (shape,) = [jax.export.symbolic_shape('2, h, 6, 3')]
    x = jax.ShapeDtypeStruct(shape, np.float32)
    for f, said in (
        (lambda x: pool.max_pool(x, 2, implementation='shift'), "'shift': needs spatial axes"),
        (lambda x: pool.avg_pool(x, 3, padding=1, count_include_pad=False), 'count_include_pad'),
        (lambda x: pool.max_pool(x, 3, 2, padding='SAME'), 'this padding needs spatial axes'),
    ):
        with pytest.raises(ValueError, match=said):
            jax.eval_shape(f, x)
    for f in (patches.pad, patches.unfold, pool.adaptive_max_pool, pool.adaptive_avg_pool):
        with pytest.raises(ValueError, match=r'x must have spatial axes of static sizes.*\(2, h, '):
            jax.eval_shape(lambda x: f(x, 2), x)  # noqa: B023


def test_indices_out_of_range():
    """Checks that invalid indices are refused if known, else dropped without affecting others."""
    x = np.array([[[1.0], [2.0], [3.0]]], np.float32)
    for bad in (6, -1):
        indices = np.array([[[0], [bad], [5]]])
        with pytest.raises(ValueError, match=f'indices must be from 0 to 5.*got {bad}'):
            unpool.max_unpool(x, indices, (2,))
        y = jax.jit(lambda x, i: unpool.max_unpool(x, i, (2,)))(x, indices)
        np.testing.assert_array_equal(y.ravel(), [1, 0, 0, 0, 0, 3])

"""Tests of pooling: values, gradients and tangents of every kernel, against the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.bench.fuzz import pool_oracle
from cnn_jax.ops import dispatch, pool, pool_kernels
from tests.compilation import x64
from tests.ops.pool_cases import CASES, everything
from tests.ops.tolerance import assert_close

PAIRS = [
    pytest.param(case, kernel, id=f'{case.name}-{kernel}')
    for case in CASES
    for kernel in pool_kernels.KERNELS
]


def supported(case, kernel):
    """Returns the case's function for that kernel, or None after checking why it is refused."""

    def run(x):
        return getattr(pool, case.op)(x, **case.arguments(), implementation=kernel)

    try:
        jax.eval_shape(run, case.operand())
    except ValueError as error:
        assert f"{case.op} cannot run with implementation '{kernel}'" in str(error), error
        if kernel == 'shift':
            assert max(case.each('window')) > 64
        else:
            assert kernel == 'reshape'
            strides, padding = case.resolved_strides, case.resolved_padding
            split = strides == case.each('window') and set(padding) == {(0, 0)}
            rest = any(n % k for n, k in zip(case.size, case.each('window'), strict=True))
            assert not split or set(case.each('dilation')) != {1} or (rest and case.ceil_mode)
        return None
    return run


def check(case, run, dtype):
    x = case.operand(dtype)
    rng = np.random.default_rng(1)
    shape = jax.eval_shape(run, x).shape
    dy, t = rng.normal(size=shape).astype(dtype), rng.normal(size=x.shape).astype(dtype)
    actual = everything(run)(x, dy, t)
    expected = case.expected(*(np.asarray(a, np.float64) for a in (x, dy, t)))
    names = ('y', 'gradient', 'tangent', 'y alone')
    for name, a, e in zip(names, actual, (*expected, expected[0]), strict=True):
        assert a.dtype == dtype and a.shape == e.shape, name
        if case.op == 'max_pool' and name != 'gradient':
            np.testing.assert_array_equal(np.asarray(a, np.float64), e, err_msg=name)
        else:
            # a power and a root, or a division, cost a few roundings more than the sum
            assert_close(a, e, case.reduction, 2.0, name)


@pytest.mark.parametrize('case, kernel', PAIRS)
def test_float32(case, kernel):
    if run := supported(case, kernel):
        check(case, run, np.float32)


OTHERS = {
    jnp.bfloat16: (
        'max-large window',
        'max-ceil padding',
        'avg-2d',
        'avg-ceil not counted',
        'lp-2',
    ),
    np.float16: ('max-2d', 'avg-2d'),
    np.float64: ('max-2d', 'avg-ceil not counted', 'lp-2'),
}


@pytest.mark.parametrize(
    'case, dtype',
    [
        pytest.param(case, dtype, id=f'{case.name}-{dtype.__name__}')
        for dtype, names in OTHERS.items()
        for case in CASES
        if case.name in names
    ],
)
def test_other_floats(case, dtype):
    with x64():
        for kernel in pool_kernels.KERNELS:
            if run := supported(case, kernel):
                check(case, run, dtype)


@pytest.mark.parametrize('dtype', [np.int8, np.uint8, np.int32])
@pytest.mark.parametrize('kernel', pool_kernels.KERNELS)
def test_max_of_integers(dtype, kernel):
    info = np.iinfo(dtype)
    x = np.random.default_rng(0).integers(info.min, info.max, (2, 6, 4, 3)).astype(dtype)
    x[0, :2, :2, 0] = info.min
    options = {} if kernel == 'reshape' else {'strides': 2, 'padding': (0, 1)}
    y, indices = pool.max_pool(x, (3, 2), **options, return_indices=True, implementation=kernel)
    stride, padding = (2, [(0, 0), (1, 1)]) if options else (None, [(0, 0)] * 2)
    axes = [
        pool_oracle.axis_windows(n, k, stride or k, p, 1, False)
        for n, k, p in zip((6, 4), (3, 2), padding, strict=True)
    ]
    expected, at = pool_oracle.max_pool(x, axes)
    assert y.dtype == dtype
    np.testing.assert_array_equal(np.asarray(y, np.float64), expected.reshape(y.shape))
    np.testing.assert_array_equal(indices, at.reshape(y.shape))


SMALL = [
    'float8_e3m4',
    'float8_e4m3',
    'float8_e4m3b11fnuz',
    'float8_e4m3fn',
    'float8_e4m3fnuz',
    'float8_e5m2',
    'float8_e5m2fnuz',
    'float8_e8m0fnu',
    'float4_e2m1fn',
    'int4',
    'uint4',
]


@jax.jit
def maxima(x):
    """Returns maxima from every kernel, adaptive and global, and of windows with only padding."""
    calls = [('reshape', 2), ('reshape', (6, 4))]
    calls += [(name, *more) for name in ('shift', 'reduce_window') for more in ((2,), (3, 2, 1))]
    results = [
        pool.max_pool(x, *options, return_indices=True, implementation=kernel)
        for kernel, *options in calls
    ]
    results.append(pool.adaptive_max_pool(x, (4, 3), return_indices=True))
    padding = [
        pool.max_pool(x[:, :2], (2, 1), 1, (1, 0), (3, 1), implementation=name)
        for name in ('shift', 'reduce_window')
    ]
    return results, pool.global_max_pool(x), padding


@pytest.mark.parametrize('dtype', [name for name in SMALL if hasattr(jnp, name)])
def test_max_of_8_bits_and_fewer(dtype):
    """Tests small dtypes, some without infinity and one without negative numbers."""
    values = [0, 1] if 'int' in dtype else [1, 2, 4] if 'e8m0' in dtype else [-4, -2, -1, 1, 2]
    x = np.random.default_rng(0).choice(values, size=(2, 6, 4, 2)).astype(np.float32)
    x[1] = min(values)
    *actual, padding = maxima(jnp.asarray(x).astype(dtype))
    *expected, _ = maxima(x)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == (np.int32 if e.dtype == np.int32 else dtype)
        np.testing.assert_array_equal(np.asarray(a, np.float64), e)
    # XLA:CPU flushes 2^-127, the lowest float8_e8m0fnu, when it converts it to float32 and back.
    for y in padding[1:] if 'e8m0' in dtype else padding:
        assert float(y[0, 1, 0, 0]) == (jnp.iinfo if 'int' in dtype else jnp.finfo)(dtype).min or (
            float(y[0, 1, 0, 0]) == -np.inf
        )


def test_a_global_maximum_of_float8():
    assert float(pool.max_pool(jnp.ones((1, 70, 1), jnp.float8_e4m3fn), (70,)).ravel()[0]) == 1


@pytest.mark.parametrize('kernel', pool_kernels.KERNELS)
def test_integers_beside_a_differentiated_argument(kernel):
    """Tests an integer maximum, which has no derivative, inside a differentiated function."""
    x = np.arange(8, dtype=np.int32).reshape(1, 4, 2)

    def f(scale):
        return (scale * pool.max_pool(x, (2,), implementation=kernel)).sum()

    assert jax.grad(f)(2.0) == (2 + 3 + 6 + 7)
    gradient = jax.grad(lambda x: pool.max_pool(x, (2,)).sum() * 1.0, allow_int=True)(x)
    assert gradient.dtype == jax.dtypes.float0


@pytest.mark.parametrize('kernel', pool_kernels.KERNELS)
def test_16_bit_averages_add_up_in_float32(kernel):
    """Tests long sums; a bfloat16 sum of ones would stop at 256."""
    x = jnp.ones((1, 18, 18, 1), jnp.bfloat16)
    y = pool.avg_pool(x, 18, implementation=kernel)
    assert y.dtype == jnp.bfloat16 and float(y.ravel()[0]) == 1.0
    # 261 / 3 = 87: a sum rounded to bfloat16 before the division, 260, would give 86.5.
    x = jnp.asarray([100, 100, 61], jnp.bfloat16).reshape(1, 3, 1)
    assert float(pool.avg_pool(x, 3, implementation=kernel)[0, 0, 0]) == 87.0


@pytest.mark.parametrize('op', ['max_pool', 'avg_pool'])
@pytest.mark.parametrize('kernel', pool_kernels.KERNELS)
def test_16_bit_gradients_add_up_in_float32(op, kernel):
    """Checks 1 + 8 * 2^-10: 1 if partial sums are rounded to bfloat16, else 1 + 2^-7."""
    if kernel == 'reshape':
        pytest.skip('its windows do not overlap: no sums in the gradient')
    x = np.zeros((1, 5, 5, 1))
    x[0, 2, 2] = 1  # in all 9 windows, and the maximum of each
    dy = np.full((1, 3, 3, 1), 2.0**-10)
    dy[0, 0, 0] = 1
    x, dy = jnp.asarray(x, jnp.bfloat16), jnp.asarray(dy, jnp.bfloat16)
    arguments = {} if op == 'max_pool' else {'divisor_override': 1}
    f = lambda x: getattr(pool, op)(x, 3, 1, **arguments, implementation=kernel)  # noqa: E731
    (dx,) = jax.vjp(f, x)[1](dy)
    assert float(dx[0, 2, 2, 0]) == 1 + 2.0**-7


@pytest.mark.parametrize('batch', [(), (0,), (2, 1), (2, 0, 1)])
@pytest.mark.parametrize('op', ['max_pool', 'avg_pool'])
def test_batch_axes(batch, op):
    x = np.random.default_rng(0).normal(size=(*batch, 4, 6, 2)).astype(np.float32)
    for kernel in pool_kernels.KERNELS:
        run = lambda x: getattr(pool, op)(x, (2, 3), implementation=kernel)  # noqa: E731, B023
        y, dx, *_ = everything(run)(x, np.ones((*batch, 2, 2, 2), np.float32), x)
        assert y.shape == (*batch, 2, 2, 2) and dx.shape == x.shape
        blocks = x.reshape(-1, 2, 2, 2, 3, 2)
        expected = blocks.max((2, 4)) if op == 'max_pool' else blocks.mean((2, 4))
        np.testing.assert_allclose(y.reshape(-1, 2, 2, 2), expected, rtol=1e-6)
        if op == 'avg_pool':
            np.testing.assert_allclose(dx, np.full(x.shape, 1 / 6), rtol=1e-6)


def test_views_that_are_not_contiguous():
    base = np.random.default_rng(0).normal(size=(3, 8, 6, 2)).astype(np.float32)
    view = base.transpose(3, 2, 1, 0)[:, ::2, ::-1]
    np.testing.assert_array_equal(pool.max_pool(view, 2), pool.max_pool(view.copy(), 2))


def test_names_sequences_and_none():
    """Tests that pools use the same dispatch as convolutions."""
    x = np.zeros((1, 5, 5, 1), np.float32)
    for op in ('max_pool', 'avg_pool', 'lp_pool'):
        assert set(dispatch.implementations(op)) == set(pool_kernels.KERNELS)
    with pytest.raises(ValueError, match='reshape.*strides equal to the window'):
        pool.max_pool(x, 3, 2, implementation='reshape')
    with pytest.raises(ValueError, match="unknown implementation 'laxx'"):
        pool.avg_pool(x, 3, implementation='laxx')

    def ran(**options):
        text = jax.jit(lambda x: pool.max_pool(x, 3, 2, **options)).lower(x).as_text()
        return 'reduce_window' if 'reduce_window' in text else 'views'

    assert ran() == 'views'
    assert ran(implementation=('reshape', 'reduce_window')) == 'reduce_window'
    with dispatch.use_implementation(max_pool='reduce_window'):
        assert ran() == 'reduce_window'
    # a long window must not lower to a long program
    text = jax.jit(lambda x: pool.avg_pool(x, (100,), 1)).lower(jnp.zeros((1, 200, 1))).as_text()
    assert 'reduce_window' in text

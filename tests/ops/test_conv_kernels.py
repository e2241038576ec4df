"""Tests of every kernel on every case: values and gradients against the float64 oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax.bench.fuzz import conv_oracle as oracle
from cnn_jax.ops import kernels
from tests.compilation import LOOPS_OF_USERS, x64
from tests.ops.conv_cases import CASES, TRANSPOSED_CASES
from tests.ops.tolerance import FACTOR, assert_close

CONV_CASES = {case.name: case for case in CASES}
KERNELS = tuple(name for name in kernels.KERNELS if name != 'pallas')  # test_pallas.py


def run_or_reason(run, *arguments, **options):
    """Returns (result, None), or (None, reason) if the kernel does not support the call.

    `options` are passed to jax.jit.
    """
    try:
        return jax.jit(run, **options)(*arguments), None
    except ValueError as error:
        if 'cannot run with implementation' not in str(error):
            raise
        return None, str(error)


def with_gradients(f, x, w, dy):
    y, vjp = jax.vjp(f, x, w)
    return y, *vjp(dy)


def named(*names):
    return [CONV_CASES[name] for name in names]


def cases_for(kernel, cases):
    """Returns `cases`, or depthwise ones for a kernel that supports no others."""
    only = ('2d depthwise', '2d depthwise strided')
    return named(*only) if kernel == 'native_depthwise' else cases


def ids(case):
    return case.name


@pytest.mark.parametrize('name', KERNELS)
@pytest.mark.parametrize('case', CASES, ids=ids)
def test_values_and_gradients(case, name):
    x, w = case.operands()
    bias = np.linspace(-1, 1, w.shape[-1], dtype=np.float32)
    expected = oracle.conv(x, w, **case.resolved())
    dy = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
    y, dx, dw = oracle.conv(x, w, dy, **case.resolved())

    def run(x, w, bias, dy):
        conv = lambda x, w, bias: cnn_jax.conv(  # noqa: E731
            x, w, bias=bias, implementation=name, **case.arguments()
        )
        y, vjp = jax.vjp(conv, x, w, bias)
        return y, *vjp(dy)

    result, reason = run_or_reason(run, x, w, bias, dy)
    if result is None:
        assert repr(name) in reason and len(reason) > 60
        return
    for actual, (what, wanted) in zip(
        result, {'y': y + bias, 'dx': dx, 'dw': dw}.items(), strict=False
    ):
        message = f'{what} of {name} on {case.name}'
        assert_close(actual, wanted, case.reduction, FACTOR.get(name, 1.0), message)
    terms = dy.size // w.shape[-1]
    db = dy.sum(tuple(range(dy.ndim - 1)), np.float64)
    assert_close(result[3], db, terms, message='db', scale=np.sqrt(terms) * 2)  # terms ~ N(0, 1)


@pytest.mark.parametrize('name', KERNELS)
@pytest.mark.parametrize('case', TRANSPOSED_CASES, ids=ids)
def test_transposed_values_and_gradients(case, name):
    x, w = case.operands()
    expected = case.expected(x, w)
    ct = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)

    def run(x, w, ct):
        y, vjp = jax.vjp(
            lambda x, w: cnn_jax.conv_transpose(x, w, implementation=name, **case.call_arguments()),
            x,
            w,
        )
        return y, *vjp(ct)

    result, reason = run_or_reason(run, x, w, ct)
    if result is None:
        assert repr(name) in reason
        return
    y, dx, dw = result
    factor = FACTOR.get(name, 1.0)
    assert_close(y, expected, case.reduction, factor, f'y of {name} on {case.name}')
    # The map is bilinear, so <dx, v> = <ct, f(v, w)> and <dw, v> = <ct, f(x, v)> for every v. The
    # gradients are checked against the oracle along random directions v of each operand.
    for what, gradient, operand, other in (('dx', dx, x, w), ('dw', dw, w, x)):
        assert gradient.shape == operand.shape
        for seed in range(3):
            v = np.random.default_rng(seed).normal(size=operand.shape)
            moved = case.expected(v, other) if what == 'dx' else case.expected(other, v)
            wanted, scale = np.vdot(ct, moved), np.linalg.norm(ct) * np.linalg.norm(moved)
            error = abs(np.vdot(np.asarray(gradient, np.float64), v) - wanted)
            allowed = factor * 4 * 6e-8 * np.sqrt(case.reduction) * scale
            assert error <= allowed, f'{what} of {name} on {case.name}: {error} above {allowed}'


DTYPE_CASES = named('2d same 3x3', '2d dilation and stride', '2d groups', '1d', '2d 1x1')


@pytest.mark.optimized  # LLVM's optimisations must not change what is rounded
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float64', 'int32', 'int8'])
@pytest.mark.parametrize('name', KERNELS)
def test_dtypes(name, dtype):
    cases = DTYPE_CASES[:2] if name not in ('dot', 'native_dot', 'winograd') else DTYPE_CASES
    for case in cases_for(name, cases):
        wide = np.int64 if 'int' in dtype else np.float64
        x, w = (np.asarray(a) for a in case.operands(wide))
        is_64_bit = dtype == 'float64'
        with x64(is_64_bit):
            x, w = jnp.asarray(x, dtype), jnp.asarray(w, dtype)
            expected = oracle.conv(x, w, **case.resolved())
            dy = jnp.asarray(np.random.default_rng(1).integers(-3, 4, expected.shape), dtype)
            y, dx, dw = oracle.conv(x, w, dy, **case.resolved())

            def run(x, w, dy, case=case):
                wrap = {'preferred_element_type': dtype} if dtype == 'int8' else {}
                conv = lambda x, w: cnn_jax.conv(  # noqa: E731
                    x, w, implementation=name, **case.arguments(), **wrap
                )
                if 'int' in dtype:
                    return (conv(x, w),)
                value, vjp = jax.vjp(conv, x, w)
                return value, *vjp(dy)

            result, reason = run_or_reason(run, x, w, dy, compiler_options=LOOPS_OF_USERS)
            if result is None:
                assert repr(name) in reason
                continue
            for actual, wanted in zip(result, (y, dx, dw), strict=False):
                assert actual.dtype == dtype
                if dtype == 'int8':  # arithmetic modulo 256, as in jax.lax
                    wanted = wanted.astype(np.int64).astype(np.int8)
                assert_close(
                    actual, wanted, case.reduction, FACTOR.get(name, 1.0), f'{name} {dtype}'
                )


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
@pytest.mark.parametrize('name', KERNELS)
def test_long_sums_of_16_bit_floats_are_kept_in_float32(name, dtype):
    # Sums of many equal terms are exact in both dtypes. A running sum kept in 16 bits would stop
    # growing once a term is below half a unit in its last place (2^5 in bfloat16, 2^8 in float16).
    one = ((1, 1), 1)
    special = {'dot': one, 'native_dot': one, 'block_diagonal': ((12, 12), 2)}
    window, groups = special.get(name, ((3, 3), 1))
    long_window = (64, 128) if name == 'native_depthwise' else window
    taps = long_window[0] * long_window[1]
    deep = jnp.full((1, *long_window, 8192 // taps * groups), 0.125, dtype)
    deep_kernel = jnp.ones((*long_window, 8192 // taps, groups), dtype)
    large = jnp.full((1, 64, 128, groups), 0.125, dtype)
    kernel = jnp.ones((*window, 1, groups), dtype)

    def sums(deep, deep_kernel, large, kernel):
        conv = lambda x, w: cnn_jax.conv(  # noqa: E731
            x, w, padding='VALID', groups=groups, implementation=name
        )
        y, vjp = jax.vjp(conv, large, kernel)
        return conv(deep, deep_kernel), vjp(jnp.ones_like(y))[1]

    (y, dw), reason = run_or_reason(sums, deep, deep_kernel, large, kernel)
    assert reason is None
    positions = (64 - window[0] + 1) * (128 - window[1] + 1)
    rounding = float(jnp.finfo(dtype).eps)
    for actual, terms in ((y, 8192 // taps * taps), (dw, positions)):
        np.testing.assert_allclose(np.asarray(actual, np.float64), terms / 8, rtol=rounding)


DERIVATIVE_CASES = named(
    '2d same 3x3', '2d strides', '2d depthwise multiplier', '2d groups', '1d', '2d 1x1'
)


@pytest.mark.parametrize('name', KERNELS)
def test_forward_mode_and_second_order(name):
    """Checks derivatives by bilinearity: the tangent of y is conv(dx, w) + conv(x, dw).

    The derivative of the filter gradient in x is the filter gradient of the tangent, and so on.
    """
    checked = 0
    for case in cases_for(name, DERIVATIVE_CASES):
        x, w = case.operands()
        tx, tw = case.operands(seed=1)
        expected = oracle.conv(x, w, **case.resolved())
        dy = np.random.default_rng(2).normal(size=expected.shape).astype(np.float32)

        def run(x, w, tx, tw, dy, case=case):
            conv = lambda x, w: cnn_jax.conv(x, w, implementation=name, **case.arguments())  # noqa: E731
            tangent = jax.jvp(conv, (x, w), (tx, tw))[1]
            gradients = lambda x, w: jax.vjp(conv, x, w)[1](dy)  # noqa: E731
            second = jax.jvp(gradients, (x, w), (tx, tw))[1]
            # reverse over reverse: the gradient of <gradients, tangents>
            back = jax.vjp(gradients, x, w)[1]((tx, tw))
            return tangent, second, back

        result, reason = run_or_reason(run, x, w, tx, tw, dy)
        if result is None:
            assert repr(name) in reason
            continue
        checked += 1
        tangent, second, back = result
        factor = 2 * FACTOR.get(name, 1.0)
        each = lambda x, w: oracle.conv(x, w, **case.resolved())  # noqa: B023, E731
        assert_close(tangent, each(tx, w) + each(x, tw), case.reduction, factor, name)
        ddx = oracle.conv(x, tw, dy, **case.resolved())[1]
        ddw = oracle.conv(tx, w, dy, **case.resolved())[2]
        for actual in (second, back):
            assert_close(actual[0], ddx, case.reduction, factor, name)
            assert_close(actual[1], ddw, case.reduction, factor, name)
    assert checked


@pytest.mark.parametrize('name', KERNELS)
@pytest.mark.parametrize('mapped', ['x', 'w', 'both'])
def test_vmap(name, mapped):
    """Compares vmap of values and gradients with a loop over x, over w, or over all operands.

    If only w is mapped, the cotangent is shared.
    """
    checked = 0
    for case in cases_for(name, named('2d same 3x3', '2d groups', '2d 1x1')):
        (x, w), rng = case.operands(), np.random.default_rng(1)
        xs = rng.normal(size=(3, *x.shape)).astype(np.float32) if mapped != 'w' else x
        ws = rng.normal(size=(3, *w.shape)).astype(np.float32) if mapped != 'x' else w
        axes = tuple(0 if mapped in (role, 'both') else None for role in ('x', 'w', 'dy'))
        shape = oracle.conv(x, w, **case.resolved()).shape
        dys = rng.normal(size=(3, *shape) if mapped == 'both' else shape).astype(np.float32)

        def run(xs, ws, dys, case=case, axes=axes):
            conv = functools.partial(cnn_jax.conv, implementation=name, **case.arguments())
            return jax.vmap(functools.partial(with_gradients, conv), axes)(xs, ws, dys)

        result, reason = run_or_reason(run, xs, ws, dys)
        if result is None:
            assert repr(name) in reason
            continue
        checked += 1
        for i in range(3):
            each = zip((xs, ws, dys), axes, strict=True)
            x, w, dy = (a[i] if axis == 0 else a for a, axis in each)
            expected = oracle.conv(x, w, dy, **case.resolved())
            for actual, wanted in zip(result, expected, strict=True):
                assert_close(actual[i], wanted, case.reduction, FACTOR.get(name, 1.0), name)
    assert checked


NOT_HERE = (*FACTOR, 'dot', 'native_dot', 'block_diagonal', 'native_depthwise', 'pallas')


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('name', [n for n in KERNELS if n not in NOT_HERE])
def test_non_finite_values_stay_in_their_windows(name, value):
    x = np.ones((1, 7, 7, 2), np.float32)
    x[0, 3, 3, 0] = value
    w = np.ones((3, 3, 2, 2), np.float32)
    y = np.asarray(cnn_jax.conv(x, w, padding='SAME', implementation=name))
    reached = np.zeros((7, 7), bool)
    reached[2:5, 2:5] = True
    assert np.isfinite(y[0][~reached]).all()
    np.testing.assert_array_equal(y[0][reached], np.full((9, 2), value, np.float32))


def test_every_kernel_computes_something_in_every_role():
    """Checks that no kernel passes this file by declining every case."""
    for name in KERNELS:
        for cases, op in ((CASES, 'conv'), (TRANSPOSED_CASES, 'conv_transpose')):
            accepted = 0
            for case in cases:
                call = case.arguments if op == 'conv' else case.call_arguments
                shapes = (
                    jax.ShapeDtypeStruct(case.x, jnp.float32),
                    jax.ShapeDtypeStruct(case.kernel, jnp.float32),
                )
                run = lambda x, w: getattr(cnn_jax, op)(x, w, implementation=name, **call())  # noqa: B023, E731
                try:
                    jax.eval_shape(run, *shapes)
                    accepted += 1
                except ValueError:
                    pass
            assert accepted, f'{name} accepts no case of {op}'

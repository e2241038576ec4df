"""Tests of convolutions of integers of at most 8 bits: every kernel is exact, to the last bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import NamedSharding, PartitionSpec

import cnn_jax
from cnn_jax.bench.fuzz import conv_oracle as oracle
from cnn_jax.ops import kernels
from cnn_jax.ops.lowering import equations
from cnn_jax.ops.spec import ConvSpec
from tests.compilation import x64
from tests.ops.conv_cases import CASES, TRANSPOSED_CASES

SPEC = ConvSpec(
    2, (5, 5), 3, (3, 3), 4, (1, 1), ((1, 1),) * 2, (1, 1), (1, 1), 1, 'int32',
    operand_dtype='int8',
)  # fmt: skip
SMALL = tuple(name for name in kernels.KERNELS if hasattr(kernels.KERNELS[name], 'SMALL_INTEGERS'))
HERE = tuple(n for n in SMALL if n == 'dot' or not kernels.reason_against(n, 'forward', SPEC))
TRANSFORMED = tuple(name for name in (None, 'im2col', 'onednn') if name in (None, *HERE))
DEFAULT = (None, 'lax')


def draw(rng, shape, dtype='int8'):
    limits = jnp.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def supported(run, *arguments):
    try:
        jax.eval_shape(run, *arguments)
    except ValueError as error:
        assert 'cannot run with implementation' in str(error)
        return False
    return True


def check(name, cases, call, expected):
    """Compares all cases that kernel `name` supports with the oracle, in one program."""
    rng = np.random.default_rng(0)
    runs, operands = [], []
    for case in cases:
        run = lambda x, w, case=case: call(case, x, w, name)  # noqa: E731
        pair = draw(rng, case.x), draw(rng, case.kernel)
        if supported(run, *pair):
            runs.append((case, run))
            operands.append(pair)
    assert runs
    found = jax.jit(lambda all: [run(*pair) for (_, run), pair in zip(runs, all, strict=True)])
    for (case, _), pair, y in zip(runs, operands, found(operands), strict=True):
        assert y.dtype == jnp.int32
        wanted = expected(case, *pair)
        np.testing.assert_array_equal(y, wanted.astype(np.int64), f'{name} on {case.name}')


@pytest.mark.parametrize('name', [*DEFAULT, *HERE])
def test_values(name):
    check(
        name,
        CASES,
        lambda case, x, w, name: cnn_jax.conv(
            x, w, implementation=name, preferred_element_type='int32', **case.arguments()
        ),
        lambda case, x, w: oracle.conv(x, w, **case.resolved()),
    )


@pytest.mark.parametrize('name', [*DEFAULT, 'im2col'])
def test_transposed_values(name):
    check(
        name,
        TRANSPOSED_CASES,
        lambda case, x, w, name: cnn_jax.conv_transpose(
            x, w, implementation=name, preferred_element_type='int32', **case.call_arguments()
        ),
        lambda case, x, w: case.expected(x, w),
    )


# Long sums. With 1,025 terms, float32 cannot hold the sum of all products.

LONG = {  # shapes of x and w, groups
    '1024 terms': ((1, 4, 1024), (1, 1024, 3), 1),
    '1025 terms': ((1, 4, 1025), (1, 1025, 3), 1),
    'two pieces of a window': ((2, 5, 5, 130), (3, 3, 130, 17), 1),
    'groups': ((1, 4, 4, 400), (3, 3, 200, 4), 2),
    'most taps': ((1, 32, 33, 3), (32, 32, 3, 2), 1),
    'more taps than terms': ((1, 33, 33, 2), (33, 33, 2, 2), 1),
    'more pieces than are written out': ((1, 2, 33_000), (1, 33_000, 2), 1),
}


def extremes(x, w, dtype):
    """Yields operands whose sums are as large as can be, and even, odd or negative."""
    limits = jnp.iinfo(dtype)
    low, high = (np.full(x, limits.min, dtype), np.full(x, limits.max, dtype))
    odd = high.copy()
    odd[..., 0] -= 1
    yield low, np.full(w, limits.min, dtype)
    yield odd, np.full(w, limits.max, dtype)
    yield odd, np.full(w, limits.min, dtype)
    yield draw(np.random.default_rng(0), x, dtype), np.full(w, limits.max, dtype)


@pytest.mark.parametrize('name', [*DEFAULT, *HERE])
def test_long_sums(name):
    titles, runs, operands = [], [], []
    for case, (shape, kernel, groups) in LONG.items():
        if case == 'most taps' and name == 'im2col':
            continue  # compiles for half a minute, because it writes out every tap
        for dtype, wide in (('int8', 'int32'), ('uint8', 'uint32')):
            run = functools.partial(
                cnn_jax.conv, padding='VALID', groups=groups, implementation=name,
                preferred_element_type=wide,
            )  # fmt: skip
            pairs = list(extremes(shape, kernel, dtype))
            if supported(run, *pairs[0]):
                titles.append(f'{case} {dtype}')
                runs.append((run, wide, groups))
                operands.append(pairs)
    assert runs
    # One program for all cases, which compiles faster than a program each.
    program = jax.jit(lambda all: [run(*pair) for (run, *_), pair in zip(runs, all, strict=True)])
    for pairs in zip(*operands, strict=True):
        for title, (_, wide, groups), (x, w), y in zip(
            titles, runs, pairs, program(pairs), strict=True
        ):
            axes = x.ndim - 2
            wanted = oracle.conv(
                x, w, strides=(1,) * axes, padding=((0, 0),) * axes, dilation=(1,) * axes,
                input_dilation=(1,) * axes, groups=groups,
            )  # fmt: skip
            assert y.dtype == wide
            np.testing.assert_array_equal(y, wanted.astype(np.int64), title)


@pytest.mark.parametrize('name', [*DEFAULT, *HERE])
@pytest.mark.parametrize('dtype', ['int8', 'int16', 'int32', 'int64'])
def test_sums_wrap_around_in_the_dtype_of_the_result(dtype, name):
    x, w = np.full((1, 3, 3000), -128, np.int8), np.full((1, 3000, 2), -127, np.int8)
    with x64(dtype == 'int64'):
        y = cnn_jax.conv(x, w, preferred_element_type=dtype, implementation=name)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, np.full((1, 3, 2), 3000 * 128 * 127).astype(dtype))


# The narrow operands reach the kernels


def lax_conv(x, w):
    return lax.conv_general_dilated(
        x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        preferred_element_type=jnp.int32,
    )  # fmt: skip


X, W = (draw(np.random.default_rng(i), s) for i, s in enumerate([(4, 6, 6, 18), (3, 3, 18, 6)]))
WANTED = oracle.conv(
    X, W, strides=(1, 1), padding=((1, 1),) * 2, dilation=(1, 1), input_dilation=(1, 1), groups=1
).astype(np.int32)


def named(name):
    return lambda x, w: cnn_jax.conv(x, w, preferred_element_type='int32', implementation=name)


def test_a_program_of_lax_is_read_with_its_narrow_operands():
    for f in (lax_conv, named(None)):
        (eqn,) = (e for e in jax.make_jaxpr(f)(X, W).eqns if 'conv' in e.primitive.name)
        plan = equations.read(*(v.aval for v in eqn.invars), eqn.params)
        assert (plan.spec.operand_dtype, plan.spec.dtype) == ('int8', 'int32')
    (used,) = cnn_jax.explain(named(None), X, W)
    assert '(4, 6, 6, 6) int8 in int32: default: ' in str(used)


@pytest.mark.skipif('onednn' not in HERE, reason='no native kernel here')
def test_an_installed_program_calls_the_native_kernel_with_int8():
    with cnn_jax.installed():
        program = jax.jit(lax_conv).lower(X, W)
    text = program.as_text()
    assert '(tensor<4x6x6x18xi8>, tensor<3x3x18x6xi8>) -> tensor<4x6x6x6xi32>' in text
    assert 'cnn_jax_onednn' in text
    np.testing.assert_array_equal(program.compile()(X, W), WANTED)


# Transformations


def _vmap(f, x, w):
    y = jax.vmap(f)(jnp.stack([x, -x]), jnp.stack([w, w[::-1]]))
    np.testing.assert_array_equal(y[1], f(-x, w[::-1]))
    return y[0]


def _vmap_of_w(f, x, w):
    return jax.vmap(f, (None, 0))(x, jnp.stack([w, -w]))[0]


def _sharded(f, x, w):
    mesh = jax.make_mesh((2,), ('d',), devices=jax.devices()[:2])
    x = jax.device_put(x, NamedSharding(mesh, PartitionSpec('d')))
    w = jax.device_put(w, NamedSharding(mesh, PartitionSpec()))
    program = jax.jit(f).lower(x, w).compile()
    assert 'all-gather' not in program.as_text()
    return program(x, w)


TRANSFORMS = {
    'eager': lambda f, x, w: f(x, w),
    'constants': lambda f, x, w: jax.jit(lambda: f(x, w))(),
    'a constant kernel': lambda f, x, w: jax.jit(lambda x: f(x, w))(x),
    'vmap': _vmap,
    'vmap of w': _vmap_of_w,
    'scan': lambda f, x, w: lax.scan(lambda c, x: (c, f(x, w)), 0, x[:, None])[1][:, 0],
    'remat': lambda f, x, w: jax.jit(jax.checkpoint(f))(x, w),
    'sharded batch': _sharded,
}


@pytest.mark.parametrize('name', TRANSFORMED)
@pytest.mark.parametrize('what', TRANSFORMS)
def test_transformations(what, name):
    np.testing.assert_array_equal(TRANSFORMS[what](named(name), X, W), WANTED)


def test_an_exported_program_has_no_native_code():
    exported = export.export(jax.jit(named(None)), platforms=['cpu', 'cuda'])(X, W)
    assert 'cnn_jax_onednn' not in exported.mlir_module()
    np.testing.assert_array_equal(exported.call(X, W), WANTED)


@pytest.mark.parametrize('f', [lax_conv, named(None)], ids=['lax', 'ours'])
def test_integers_have_no_gradient(f):
    with pytest.raises(TypeError, match='requires real- or complex-valued inputs'):
        jax.grad(lambda x: f(x, W).sum())(jnp.asarray(X))
    y, pull = jax.vjp(f, X, W)
    zero = np.zeros(y.shape, jax.dtypes.float0)
    assert [g.dtype for g in pull(zero)] == [jax.dtypes.float0] * 2


def test_what_gpus_and_tpus_compile():
    traced = jax.jit(named(None)).trace(X, W)
    for platform, operand in (('cuda', 'i32'), ('tpu', 'i8')):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert (
            f'(tensor<4x6x6x18x{operand}>, tensor<3x3x18x6x{operand}>) -> tensor<4x6x6x6xi32>'
            in text
        )

"""Tests of native transpositions around the convolutions and pools of channels-first programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import cnn_jax
from cnn_jax.ops import kernels
from cnn_jax.ops.kernels.native import transpose as native
from cnn_jax.ops.lowering import transposes
from tests.compilation import x64
from tests.ops.test_kernel_numbers import make_spec

SMALL = make_spec((1, 4, 4, 1), (3, 3, 1, 1))
pytestmark = pytest.mark.skipif(
    kernels.reason_against('onednn', 'forward', SMALL, 'cpu') is not None,
    reason='no native kernel here',
)

NATIVE = '@cnn_jax_transpose'
LAX = 'stablehlo.transpose'
SHAPE = (8, 32, 16, 16)  # channels first
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def array(shape=SHAPE, dtype='float32'):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


def program(f, *arrays):
    with cnn_jax.installed():
        return jax.jit(lambda *arrays: f(*arrays)).lower(*arrays).as_text()


def result(f, *arrays):
    with cnn_jax.installed():
        return jax.jit(lambda *arrays: f(*arrays))(*arrays)


# ------------------------------------------------------------------------- one transposition


@pytest.mark.parametrize('shape, order', [
    (SHAPE, TO_LAST), ((4, 16, 16, 32), TO_FIRST), ((7, 33, 129), (0, 2, 1)),
    ((3, 5, 17, 9, 11), (0, 2, 3, 4, 1)), ((1, 130, 1, 129), (2, 3, 0, 1)), ((129, 131), (1, 0)),
    ((64, 3, 97), (2, 1, 0)), ((3, 3, 48, 50), (3, 2, 0, 1)), ((2, 3, 64, 64), (1, 0, 3, 2)),
    ((2, 9, 3, 8, 5, 16), (5, 4, 3, 2, 1, 0)),
])  # fmt: skip
def test_every_bit_is_moved_to_its_place(shape, order, monkeypatch):
    monkeypatch.setattr(native, '_is_allowed', lambda: True)
    bits = np.random.default_rng(0).integers(0, 1 << 32, shape, np.uint32)
    x = bits.view(np.float32)  # NaN, infinities and subnormal numbers, too
    moved = jax.jit(lambda x: native.transpose(x, order))
    assert NATIVE in moved.lower(x).as_text()
    np.testing.assert_array_equal(np.asarray(moved(x)).view(np.uint32), bits.transpose(order))


@pytest.mark.parametrize('shape, order, moves', [
    (SHAPE, TO_LAST, True), ((4, 16, 16, 32), TO_FIRST, True), ((1, 64, 300), (0, 2, 1), True),
    ((64, 1, 300), (2, 1, 0), True),
    (SHAPE, (0, 1, 3, 2), True),  # rows and columns, of images of one feature
    (SHAPE, (1, 0, 2, 3), False), (SHAPE, (3, 2, 1, 0), False), (SHAPE, (0, 1, 2, 3), False),
    ((1, 1, 1 << 15, 1), (0, 2, 3, 1), False),  # moves nothing
    ((256, 128), (1, 0), False),  # a matrix
    ((2, 8, 8, 8), TO_LAST, False),  # small
])  # fmt: skip
def test_which_transpositions_are_native(shape, order, moves):
    text = program(lambda x: lax.transpose(x, order), array(shape))
    assert (NATIVE in text) == moves
    x = array(shape)
    found = result(lambda x: lax.transpose(x, order), x)
    np.testing.assert_array_equal(found, np.transpose(x, order))


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'int32', 'bool'])
def test_other_dtypes_are_left_to_jax(dtype):
    assert NATIVE not in program(lambda x: lax.transpose(x, TO_LAST), array(dtype=dtype))


def test_a_program_that_is_not_installed_is_left_to_jax():
    x = array()
    assert NATIVE not in jax.jit(lambda x: lax.transpose(x, TO_LAST)).lower(x).as_text()


def test_derivatives_and_vmap_are_jaxs():
    f = lambda x: lax.transpose(jnp.sin(x), TO_LAST)  # noqa: E731
    x, dy = array(), array((8, 16, 16, 32))
    pullback = lambda x, dy: jax.vjp(f, x)[1](dy)[0]  # noqa: E731
    np.testing.assert_allclose(
        result(pullback, x, dy), jnp.cos(x) * dy.transpose(TO_FIRST), rtol=1e-6, atol=1e-6
    )
    many = jnp.stack([x, 2 * x])
    found = result(jax.vmap(f), many)
    np.testing.assert_allclose(found, jnp.sin(many).transpose(0, 1, 3, 4, 2), rtol=1e-6, atol=1e-6)


def test_an_exported_program_has_no_native_code():
    with cnn_jax.installed():
        saved = export.export(jax.jit(convolve))(*operands())
        moved = export.export(jax.jit(lambda x: lax.transpose(x, TO_LAST)))(array())
        pooled = export.export(jax.jit(jax.grad(lambda x: pool(x).sum())))(array())
    for each in (saved, moved, pooled):
        assert NATIVE not in str(each.mlir_module())


def test_a_symbolic_size_is_left_to_jax():
    shape = jax.ShapeDtypeStruct(export.symbolic_shape('n, 32, 16, 16'), jnp.float32)
    assert not transposes.moves_features(shape, TO_LAST)


@pytest.mark.parametrize('axes', [('data', None), (None, 'data')])
def test_a_sharded_program_is_left_to_jax(axes):
    mesh = Mesh(np.array(jax.devices()[:4]), ('data',))
    placed = NamedSharding(mesh, PartitionSpec(*axes))
    x, w = (jax.device_put(a, s) for a, s in zip(
        operands(), (placed, NamedSharding(mesh, PartitionSpec())), strict=True))  # fmt: skip
    with cnn_jax.installed():
        compiled = jax.jit(gradients).lower(x, w).compile()
    assert NATIVE.removeprefix('@') not in compiled.as_text()
    expected = jax.jit(gradients)(*operands())
    for a, b in zip(compiled(x, w), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


# ------------------------------------------------------------- arrangements around a kernel


def operands(dtype='float32'):
    return array(dtype=dtype), array((64, 32, 3, 3), dtype)


def convolve(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), 'SAME')


def gradients(x, w):
    y, pullback = jax.vjp(convolve, x, w)
    return y, *pullback(jnp.cos(y))


def pool(x):
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 2, 2), [(0, 0), (0, 0), (1, 1), (1, 1)]
    )


def test_channels_first_transposes_each_array_once_per_use():
    text = program(gradients, *operands())
    # Forward: x, w, y. Input gradient: dy, w, dx. Filter gradient: x, dy, dw, of which XLA shares
    # x and dy with the others.
    assert text.count(NATIVE) == 9
    assert LAX not in text


def test_bfloat16_is_left_to_xla():
    assert NATIVE not in program(gradients, *operands('bfloat16'))


def test_channels_last_transposes_nothing():
    x, w = array((8, 16, 16, 32)), array((3, 3, 32, 64))
    layout = ('NHWC', 'HWIO', 'NHWC')

    def run(x, w):
        f = lambda x, w: lax.conv_general_dilated(x, w, (1, 1), 'SAME', dimension_numbers=layout)  # noqa: E731
        y, pullback = jax.vjp(f, x, w)
        return y, *pullback(jnp.cos(y))

    assert NATIVE not in program(run, x, w)


@pytest.mark.parametrize('groups', [1, 4])
@pytest.mark.parametrize('options', [
    {}, {'window_strides': (2, 2)}, {'rhs_dilation': (2, 1)}, {'lhs_dilation': (2, 2)},
    {'padding': [(-1, 2), (3, 0)]},
])  # fmt: skip
def test_gradients_are_those_of_float64(options, groups):
    settings = {'window_strides': (1, 1), 'padding': [(1, 1), (1, 1)]} | options
    x, w = array(), array((64, 32 // groups, 3, 3))

    def run(x, w):
        f = lambda x, w: lax.conv_general_dilated(x, w, feature_group_count=groups, **settings)  # noqa: E731
        y, pullback = jax.vjp(f, x, w)
        return y, *pullback(jnp.cos(y))

    found = result(run, x, w)
    with x64():
        expected = jax.jit(run)(x.astype('float64'), w.astype('float64'))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()))


def test_gradient_of_a_pool():
    x = array()
    dy = array(pool(x).shape)
    pullback = lambda x, dy: jax.vjp(pool, x)[1](dy)[0]  # noqa: E731
    assert program(pullback, x, dy).count(NATIVE) == 3
    expected = jax.jit(pullback)(x, dy)
    np.testing.assert_allclose(result(pullback, x, dy), expected, rtol=1e-6, atol=1e-6)


def test_other_operations_between_transpositions(monkeypatch):
    seen = []
    own = native.transpose
    monkeypatch.setattr(native, 'transpose', lambda x, order: seen.append(order) or own(x, order))
    offset = np.arange(32, dtype=np.float32)

    def arrange(x, other):
        y = jnp.flip(x.transpose(TO_LAST), 1)  # transposed, then something else
        return {'a': (y + offset).transpose(TO_FIRST).transpose(TO_LAST), 'b': other * 2.0}

    x = array()
    found = jax.jit(native.natively(arrange))(x, x[0])
    expected = arrange(x, x[0])
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    moved = [order for order in seen if order != tuple(range(len(order)))]
    assert moved == [TO_LAST]  # the other two cancel


def test_without_the_library_transpositions_are_jaxs(monkeypatch):
    def unavailable():
        raise native.build.Unavailable('not here')

    monkeypatch.setattr(native.build, 'load', unavailable)
    assert NATIVE not in program(lambda x: lax.transpose(x, TO_LAST), array())

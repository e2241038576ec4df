"""Tests of `conv` that do not depend on the kernel: the drop-in, dispatch and invalid input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import cnn_jax
from cnn_jax.bench.fuzz import conv_oracle as oracle
from cnn_jax.ops import kernels
from cnn_jax.ops.lowering.rules import HAS_OUT_SHARDING
from cnn_jax.ops.operands import add_bias
from tests.ops.conv_cases import CASES
from tests.ops.tolerance import assert_close


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('batch', [(), (2,), (2, 3), (1, 0, 2)])
@pytest.mark.parametrize('op', ['conv', 'conv_transpose'])
def test_any_number_of_batch_axes(batch, op):
    x, w = normal(*batch, 5, 4, 3), normal(3, 2, 3, 4)
    y = getattr(cnn_jax, op)(x, w, strides=2)
    flat = getattr(cnn_jax, op)(x.reshape(-1, 5, 4, 3), w, strides=2)
    assert y.shape == (*batch, *flat.shape[1:])
    np.testing.assert_array_equal(y.reshape(flat.shape), flat)


def test_bias_is_added_per_feature_and_a_view_is_as_good_as_a_copy():
    x, w, bias = normal(2, 8, 8, 6)[:, ::2, ::-1, 1:4], normal(3, 3, 3, 5), normal(5)
    assert not x.flags.c_contiguous
    y = cnn_jax.conv(x, w, bias=bias)
    np.testing.assert_array_equal(y, cnn_jax.conv(x.copy(), w) + bias)


@pytest.mark.parametrize('op', [cnn_jax.conv, cnn_jax.conv_transpose])
def test_the_gradient_of_a_16_bit_bias_is_summed_in_float32(op):
    x, w = jnp.zeros((4, 32, 32, 1), jnp.bfloat16), jnp.zeros((1, 1, 1, 2), jnp.bfloat16)
    total = lambda bias: op(x, w, bias=bias).sum(dtype=jnp.float32)  # noqa: E731
    assert jax.jit(jax.grad(total))(jnp.zeros(2, jnp.bfloat16)).tolist() == [4096, 4096]


@pytest.mark.optimized
def test_the_gradient_of_a_16_bit_sum_with_a_bias_is_written_once_in_16_bits():
    shape = (8, 32, 32, 16)  # smaller ones are computed twice
    y, bias, dz = (jnp.asarray(normal(*s), jnp.bfloat16) for s in (shape, (16,), shape))

    def gradients(y, bias, dz):
        return jax.vjp(lambda *args: jax.nn.relu(add_bias(*args)), y, bias)[1](dz)

    compiled = jax.jit(gradients).lower(y, bias, dz).compile()
    dy, dbias = compiled(y, bias, dz)
    expected = np.where(y.astype('f') + bias.astype('f') > 0, dz.astype('f'), 0)
    np.testing.assert_array_equal(dy.astype('f'), expected)
    np.testing.assert_allclose(dbias.astype('f'), expected.sum((0, 1, 2)), rtol=2**-8)
    if jax.default_backend() == 'cpu':
        _, _, entry = compiled.as_text().partition('ENTRY')
        assert 'f32[8,32,32,16]' not in entry


def test_preferred_element_type_widens_before_multiplying():
    x, w = jnp.full((1, 8, 300), 100, jnp.int8), jnp.full((1, 300, 2), 100, jnp.int8)
    y = cnn_jax.conv(x, w, preferred_element_type=jnp.int32)
    assert y.dtype == jnp.int32
    np.testing.assert_array_equal(y, np.full((1, 8, 2), 3_000_000))
    x, w = (a.astype(jnp.bfloat16) for a in (normal(2, 6, 3), normal(3, 3, 4)))
    wide = cnn_jax.conv(x, w, preferred_element_type=jnp.float32)
    assert wide.dtype == jnp.float32
    assert_close(wide, oracle.conv(x, w, strides=(1,), padding=[(1, 1)], dilation=(1,),
                                   input_dilation=(1,), groups=1), 9)  # fmt: skip
    grad = jax.grad(lambda w: cnn_jax.conv(x, w, preferred_element_type=jnp.float32).sum())(w)
    assert grad.dtype == jnp.bfloat16


LAYOUTS = {
    1: ('NCH', 'OIH', 'NHC'),
    2: ('NHWC', 'HWIO', 'NCHW'),
    3: ('CNDHW', 'DIHWO', 'NDHWC'),
}


@pytest.mark.parametrize('ndim', LAYOUTS)
def test_drop_in_agrees_with_lax_in_any_layout(ndim):
    layout = LAYOUTS[ndim]
    sizes = {'N': 2, 'C': 4, 'I': 2, 'O': 6} | dict(zip('DHW', (4, 5, 6), strict=True))
    x = normal(*(sizes[a] for a in layout[0]))
    w = normal(*({'D': 2, 'H': 3, 'W': 2}.get(a, sizes[a]) for a in layout[1]))
    arguments = {
        'window_strides': (1, 2, 1)[:ndim],
        'padding': ((1, 0), (2, 1), (0, 3))[:ndim],
        'lhs_dilation': (2, 1, 1)[:ndim],
        'rhs_dilation': (1, 2, 1)[:ndim],
        'dimension_numbers': layout,
        'feature_group_count': 2,
    }
    y = cnn_jax.conv_general_dilated(x, w, **arguments)
    expected = lax.conv_general_dilated(x, w, **arguments)
    assert_close(y, expected, 2 * 27)


@pytest.mark.parametrize('padding', ['SAME', 'VALID', 'SAME_LOWER'])
def test_drop_in_default_layout_strings_and_batch_groups(padding):
    x, w = normal(4, 3, 7, 8), normal(6, 3, 3, 2)
    y = cnn_jax.conv_general_dilated(x, w, (2, 3), padding, batch_group_count=2)
    assert_close(y, lax.conv_general_dilated(x, w, (2, 3), padding, batch_group_count=2), 18)


CONV_LAYERS = [
    {'strides': 2, 'padding': 'SAME'},
    {'padding': 'CIRCULAR', 'kernel_dilation': 2},
    {'padding': ((0, 1), (2, 0)), 'feature_group_count': 2},
    {'input_dilation': 2, 'padding': ((1, 0), (2, 1))},
]


@pytest.mark.parametrize('arguments', CONV_LAYERS, ids=str)
def test_drop_in_inside_flax(arguments):
    x = normal(2, 6, 7, 4)
    kind = {'in_features': 4, 'out_features': 6, 'kernel_size': (3, 2), 'rngs': nnx.Rngs(0)}
    ours = nnx.Conv(**kind, **arguments, conv_general_dilated=cnn_jax.conv_general_dilated)
    theirs = nnx.Conv(**{**kind, 'rngs': nnx.Rngs(0)}, **arguments)
    assert_close(ours(x), theirs(x), 24)
    gradients = [nnx.grad(lambda m: (m(x) ** 2).sum())(m)['kernel'][...] for m in (ours, theirs)]
    assert_close(*gradients, 2 * 6 * 7)

    class Linen(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Conv(
                6, (3, 2), conv_general_dilated=cnn_jax.conv_general_dilated, **arguments
            )(x)

    module = Linen()
    variables = module.init(jax.random.key(0), x)
    plain = linen.Conv(6, (3, 2), **arguments)
    assert_close(
        module.apply(variables, x), plain.apply({'params': variables['params']['Conv_0']}, x), 24
    )


# ---------------------------------------------------------------------------- dispatch


def kernel_of(f, *arguments):
    """Returns the kernels that appear in the lowered program of f."""
    text = jax.jit(lambda *a: f(*a)).lower(*arguments).as_text(debug_info=True)
    return {n for n in kernels.KERNELS if f'forward_{n}' in text}


X, W = normal(2, 6, 6, 3), normal(3, 3, 3, 4)


def test_a_name_runs_that_kernel_and_a_sequence_the_first_that_can():
    run = lambda impl, **kw: kernel_of(  # noqa: E731
        lambda x: cnn_jax.conv(x, W, implementation=impl, **kw), X
    )
    assert run('scan') == {'scan'}
    assert run(('dot', 'winograd', 'scan')) == {'winograd'}
    assert run(('dot', 'winograd', 'scan'), strides=2) == {'scan'}
    with pytest.raises(ValueError, match="'dot': needs a 1x1.*'winograd': needs strides of 1"):
        cnn_jax.conv(X, W, strides=2, implementation=('dot', 'winograd'))
    with pytest.raises(ValueError, match='im2col, .*scan'):
        cnn_jax.conv(X, W, implementation='cudnn')
    for wrong in ((), 3, ('scan', 1)):
        with pytest.raises((ValueError, TypeError), match='implementation'):
            cnn_jax.conv(X, W, implementation=wrong)


def test_implementations_are_listed():
    listed = cnn_jax.implementations()
    assert {'conv', 'conv_transpose', 'max_pool', 'avg_pool'} <= set(listed)
    assert {'lax', 'scan', 'im2col', 'shift', 'winograd', 'fft'} <= set(listed['conv'])
    assert cnn_jax.implementations('conv') == listed['conv']
    with pytest.raises(ValueError, match='conv_transpose'):
        cnn_jax.implementations('convolve')


def test_use_implementation_is_part_of_the_key_of_jit():
    traces = []

    @jax.jit
    def f(x):
        traces.append(kernel_of(lambda x: cnn_jax.conv(x, W), x))
        return cnn_jax.conv(x, W)

    f(X)
    for name in ('scan', 'shift', 'scan', 'shift'):
        with cnn_jax.use_implementation(conv=name):
            f(X)
    f(X)
    assert len(traces) == 3
    assert traces[1:] == [{'scan'}, {'shift'}]


def test_use_implementation_nests_and_yields_to_an_argument():
    ran = lambda **kw: kernel_of(lambda x: cnn_jax.conv(x, W, **kw), X)  # noqa: E731
    with cnn_jax.use_implementation('scan'):
        assert ran() == {'scan'}
        assert ran(implementation='shift') == {'shift'}
        with cnn_jax.use_implementation(conv=('dot', 'im2col')):
            assert ran() == {'im2col'}
        assert ran() == {'scan'}
        with cnn_jax.use_implementation(conv=None):
            default = ran()
    assert default == ran()
    with cnn_jax.use_implementation(conv='dot'), pytest.raises(ValueError, match='1x1'):
        cnn_jax.conv(X, W)
    for wrong in ({'conv': 'nonsense'}, {'convolve': 'lax'}):
        with pytest.raises(ValueError), cnn_jax.use_implementation(**wrong):
            pass
    with pytest.raises(ValueError), cnn_jax.use_implementation('nonsense'):
        pass


# ---------------------------------------------------------------------------- invalid input

BAD_CALLS = {
    'kernel has no spatial axis': (((2, 6, 6, 3), (3, 4)), {}, ValueError, 'kernel.*spatial'),
    'kernel of 4 spatial axes': (((2,) * 6, (1,) * 6), {}, ValueError, '1 to 3 spatial'),
    'x of too low a rank': (((6, 3), (3, 3, 3, 4)), {}, ValueError, r'x must have 2 spatial'),
    'features differ': (((2, 6, 6, 5), (3, 3, 3, 4)), {}, ValueError, 'x has 5 features'),
    'groups do not divide out': (((2, 6, 6, 6), (3, 3, 2, 4)), {'groups': 3}, ValueError, r'\(4\)'),
    'groups do not fit in': (((2, 6, 6, 3), (3, 3, 3, 4)), {'groups': 2}, ValueError, 'groups=2'),
    'groups zero': (None, {'groups': 0}, ValueError, 'groups must be at least 1, got 0'),
    'groups bool': (None, {'groups': True}, TypeError, 'groups.*bool'),
    'stride zero': (None, {'strides': 0}, ValueError, 'strides must be at least 1, got 0'),
    'stride negative': (None, {'strides': (1, -2)}, ValueError, r'strides\[1\].*-2'),
    'stride bool': (None, {'strides': True}, TypeError, 'strides.*bool True'),
    'stride float': (None, {'strides': 2.0}, TypeError, 'strides.*2.0'),
    'stride string': (None, {'strides': '2'}, TypeError, "strides.*'2'"),
    'strides too many': (None, {'strides': (1, 1, 1)}, ValueError, r'strides.*\(1, 1, 1\)'),
    'dilation zero': (None, {'dilation': 0}, ValueError, 'dilation'),
    'input dilation zero': (None, {'input_dilation': (1, 0)}, ValueError, r'input_dilation\[1\]'),
    'padding unknown': (None, {'padding': 'FULL'}, ValueError, "SAME.*'FULL'"),
    'padding float': (None, {'padding': 1.5}, TypeError, 'padding.*1.5'),
    'padding pairs too few': (None, {'padding': ((1, 1),)}, ValueError, 'padding'),
    'padding triple': (None, {'padding': ((1, 1, 1), (0, 0))}, ValueError, r'padding\[0\]'),
    'causal in 2d': (None, {'padding': 'CAUSAL'}, ValueError, 'CAUSAL.*got 2'),
    'padding mode unknown': (None, {'padding_mode': 'mirror'}, ValueError, 'reflect.*mirror'),
    'holes': (None, {'padding_mode': 'circular', 'input_dilation': 2}, ValueError, r'got \(2'),
    'window too large': (((2, 2, 6, 3), (3, 3, 3, 4)), {'padding': 0}, ValueError, 'axis 0'),
    'dilated window too large': (None, {'padding': 'VALID', 'dilation': 4}, ValueError, 'spans 9'),
    'cropped away': (None, {'padding': -3}, ValueError, 'spans 3'),
    'empty kernel': (((2, 6, 6, 0), (3, 3, 0, 4)), {}, ValueError, 'size 0'),
    'bias of a wrong shape': (None, {'bias': np.zeros((4, 1), 'f')}, ValueError, r'bias.*\(4,\)'),
    'bias of another dtype': (None, {'bias': np.zeros(4, 'e')}, TypeError, 'bias: float16'),
    'precision unknown': (None, {'precision': 'precise'}, ValueError, "'precise'"),
    'preferred type unknown': (None, {'preferred_element_type': 'float33'}, TypeError, 'float33'),
}  # fmt: skip


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
@pytest.mark.parametrize('call', BAD_CALLS)
def test_bad_calls_name_the_argument(call, jit):
    shapes, arguments, error, match = BAD_CALLS[call]
    x, w = (np.zeros(s, np.float32) for s in shapes or ((2, 6, 6, 3), (3, 3, 3, 4)))
    run = lambda x, w: cnn_jax.conv(x, w, **arguments)  # noqa: E731
    with pytest.raises(error, match=match):
        (jax.jit(run) if jit else run)(x, w)


@pytest.mark.parametrize('x, w, match', [
    (np.zeros((1, 4, 2), np.float32), np.zeros((1, 2, 3), np.float16), 'float32, kernel: float16'),
    (np.zeros((1, 4, 2), bool), np.zeros((1, 2, 3), bool), 'x must be floating.*bool'),
    (np.zeros((1, 4, 2), np.complex64), np.zeros((1, 2, 3), np.complex64), 'x.*complex64'),
    ('image', np.zeros((1, 2, 3), np.float32), 'x must be an array'),
    (np.zeros((1, 4, 2), np.float32), None, 'kernel must be an array'),
])  # fmt: skip
def test_bad_dtypes(x, w, match):
    with pytest.raises(TypeError, match=match):
        cnn_jax.conv(x, w)


def test_a_traced_stride_is_named():
    with pytest.raises(TypeError, match='strides must be a static int'):
        jax.jit(lambda x, s: cnn_jax.conv(x, W, strides=s))(X, 2)


def test_drop_in_leaves_to_lax_what_no_kernel_knows():
    x, w = normal(3, 4), normal(5, 4)
    y = cnn_jax.conv_general_dilated(x, w, (), ())  # no spatial axes
    np.testing.assert_allclose(y, x @ w.T, rtol=1e-5)
    x, w = (normal(*s) + 1j * normal(*s) for s in ((2, 4, 6, 6), (3, 4, 3, 3)))
    y = cnn_jax.conv_general_dilated(x, w, (1, 2), 'SAME')
    np.testing.assert_array_equal(y, lax.conv_general_dilated(x, w, (1, 2), 'SAME'))
    with pytest.raises(ValueError, match="implementation 'scan': it needs static shapes, .* real"):
        cnn_jax.conv_general_dilated(x, w, (1, 2), 'SAME', implementation='scan')


@pytest.mark.parametrize('dtype', ['int8', 'uint8', 'int16'])
@pytest.mark.parametrize('op', ['conv', 'conv_transpose'])
def test_narrow_integers_do_not_wrap_in_silence(op, dtype):
    x, w = np.full((1, 5, 1), 100, dtype), np.full((3, 1, 1), 100, dtype)
    with pytest.raises(TypeError, match=f'x has dtype {dtype}, .* preferred_element_type'):
        getattr(cnn_jax, op)(x, w)
    y = getattr(cnn_jax, op)(x, w, preferred_element_type=jnp.int32)
    assert y.dtype == jnp.int32 and int(y[0, 2, 0]) == 30_000


def test_numpy_numbers_are_as_good_as_ints():
    y = cnn_jax.conv(X, W, strides=np.int64(2), padding=np.array([1, 1]), groups=np.array(1))
    np.testing.assert_array_equal(y, cnn_jax.conv(X, W, strides=2, padding=(1, 1)))


def test_out_sharding_is_passed_on():
    mesh = jax.make_mesh((2,), ('d',), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])
    where = NamedSharding(mesh, PartitionSpec(None, None, None, 'd'))
    if not HAS_OUT_SHARDING:
        with pytest.raises(ValueError, match='out_sharding'):
            cnn_jax.conv(X, W, out_sharding=where)
        return
    w = jax.device_put(W, where)
    x = jax.device_put(X, NamedSharding(mesh, PartitionSpec()))
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x, w: cnn_jax.conv(x, w, out_sharding=where))(x, w)
    assert y.sharding == where
    assert_close(y, np.asarray(cnn_jax.conv(X, W)), 27)


def test_bad_drop_in_calls():
    with pytest.raises(TypeError, match='ndim to be equal, got 4 and 3'):
        cnn_jax.conv_general_dilated(X, W[0], (1, 1), 'SAME')
    x, w = normal(4, 4, 5, 5), normal(6, 2, 3, 3)
    with pytest.raises(ValueError, match='At most one of batch_group_count'):
        cnn_jax.conv_general_dilated(x, w, (1, 1), 'SAME', None, None, None, 2, 2)
    with pytest.raises(ValueError, match='batch_group_count must divide'):
        cnn_jax.conv_general_dilated(x, normal(6, 4, 3, 3), (1, 1), 'SAME', batch_group_count=3)


# ---------------------------------------------------------------------------- PyTorch


def torch_has(case):
    """Returns whether PyTorch supports the case.

    It has no input dilation, and no gradient of an empty batch.
    """
    return set(np.ravel(case.input_dilation)) == {1} and 0 not in case.x


@pytest.mark.parametrize('case', tuple(filter(torch_has, CASES)), ids=lambda c: c.name)
def test_torch_agrees(case):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra: compare)')
    each = case.resolved()
    x, w = (torch.tensor(a, dtype=torch.float64) for a in case.operands())
    n = case.ndim
    x.requires_grad_(), w.requires_grad_()
    modes = {'zeros': 'constant'}
    pads = [p for pair in reversed(each['padding']) for p in pair]
    padded = torch.nn.functional.pad(
        x.movedim(-1, 1), pads, mode=modes.get(case.padding_mode, case.padding_mode)
    )
    kernel = w.movedim((-1, -2), (0, 1))
    y = getattr(torch.nn.functional, f'conv{n}d')(
        padded, kernel, stride=each['strides'], dilation=each['dilation'], groups=case.groups
    ).movedim(1, -1)
    dy = np.random.default_rng(1).normal(size=tuple(y.shape)).astype(np.float32)
    y.backward(torch.tensor(dy, dtype=torch.float64))

    def run(x, w, dy):
        y, vjp = jax.vjp(lambda x, w: cnn_jax.conv(x, w, **case.arguments()), x, w)
        return y, *vjp(dy)

    result = jax.jit(run)(*case.operands(), dy)
    for actual, wanted in zip(result, (y, x.grad, w.grad), strict=True):
        assert_close(actual, wanted.detach().numpy(), case.reduction)

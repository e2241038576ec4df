"""Tests of transposed convolution: it is the transpose of `conv`, under every convention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import cnn_jax
from tests.ops.conv_cases import TRANSPOSED_CASES
from tests.ops.tolerance import assert_close


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


MODES = ('circular', 'reflect', 'replicate')
ADJOINTS = [
    *(((7,), {'strides': 3, 'padding': ((1, 2),), 'padding_mode': mode}, 1) for mode in MODES),
    *(((6, 5), {'padding': (2, 1), 'dilation': 2, 'padding_mode': mode}, 2) for mode in MODES),
    ((4, 6), {'strides': 2, 'padding': 'SAME', 'padding_mode': 'circular'}, 1),
    ((7,), {'strides': 3, 'padding': ((1, 2),)}, 1),
    ((8, 7), {'strides': (2, 3), 'padding': ((1, 1), (0, 2)), 'dilation': (1, 2)}, 1),
    ((6, 6), {'strides': 2, 'padding': 1, 'dilation': 3}, 2),
    ((5, 4, 6), {'strides': (1, 2, 2), 'padding': 1}, 2),
]


@pytest.mark.parametrize('size, arguments, groups', ADJOINTS, ids=str)
def test_it_is_the_transpose_of_conv(size, arguments, groups):
    """Checks <conv(a), b> = <a, conv_transpose(b)>, with the kernel's feature axes swapped."""
    n = len(size)
    a, w = normal(2, *size, 4), normal(*(3, 2, 3)[:n], 4 // groups, 6)
    conv = lambda a: cnn_jax.conv(a, w, groups=groups, **arguments)  # noqa: E731
    y = conv(a)
    b = normal(*y.shape, seed=1)
    blocks = [np.swapaxes(block, -1, -2) for block in np.split(w, groups, -1)]
    back = cnn_jax.conv_transpose(
        b, np.concatenate(blocks, -1), groups=groups, output_size=size, **arguments
    )
    assert back.shape == a.shape
    np.testing.assert_allclose(np.vdot(y, b), np.vdot(a, back), rtol=1e-4)
    assert_close(back, jax.linear_transpose(conv, a)(b)[0], 6 * 18)


def test_its_jacobian_is_the_transposed_jacobian():
    w = normal(3, 2, 2, 3)
    conv = lambda a: cnn_jax.conv(a, w, strides=2, padding=1)  # noqa: E731
    transposed = lambda b: cnn_jax.conv_transpose(  # noqa: E731
        b, np.swapaxes(w, -1, -2), strides=2, padding=1, output_size=(5, 4)
    )
    a = normal(1, 5, 4, 2)
    b = conv(a)
    forward = jax.jacobian(conv)(a).reshape(b.size, a.size)
    backward = jax.jacobian(transposed)(b).reshape(a.size, b.size)
    np.testing.assert_allclose(forward, backward.T, atol=1e-6)


@pytest.mark.parametrize('padding', ['SAME', 'VALID', ((1, 2), (3, 1))], ids=str)
def test_the_lax_convention_is_jax_lax(padding):
    x = normal(2, 4, 5, 3)
    for window in ((1, 2), (3, 4), (5, 3)):
        for strides in ((1, 2), (3, 2), (2, 4)):
            w = normal(*window, 3, 2)
            expected = lax.conv_transpose(x, w, strides, padding)
            y = cnn_jax.conv_transpose(x, w, strides=strides, padding=padding, convention='lax')
            assert_close(y, expected, 60)


@pytest.mark.parametrize('padding', ['SAME', 'VALID'])
@pytest.mark.parametrize('strides', [1, 2, 3])
@pytest.mark.parametrize('window', [1, 2, 3, 4])
def test_the_keras_convention_is_the_gradient_of_the_padded_convolution(window, strides, padding):
    """Checks TensorFlow's definition: the gradient of a convolution with the same padding.

    The input of that convolution is the smallest that gives an output of x's size; for 'VALID', it
    extends to the end of the last stride.
    """
    w = normal(window, 2, 3)
    size = 5 * strides if padding == 'SAME' else 4 * strides + max(window, strides)
    conv = lambda a: cnn_jax.conv(a, np.swapaxes(w, -1, -2), strides=strides, padding=padding)  # noqa: E731
    a = normal(2, size, 3)
    x = normal(*conv(a).shape, seed=1)
    y = cnn_jax.conv_transpose(x, w, strides=strides, padding=padding, convention='keras')
    assert_close(y, jax.linear_transpose(conv, a)(x)[0], 12)


@pytest.mark.parametrize(
    'case',
    [c for c in TRANSPOSED_CASES if c.arguments.get('convention', 'torch') == 'torch'
     and not isinstance(c.arguments.get('padding', 0), str)
     and np.ndim(c.arguments.get('padding', 0)) < 2 and 0 not in c.x],
    ids=lambda c: c.name,
)  # fmt: skip
def test_torch_agrees(case):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra: compare)')
    padding = case.arguments.get('padding', 0)
    x, w = (torch.tensor(a, dtype=torch.float64) for a in case.operands())
    x.requires_grad_(), w.requires_grad_()
    # PyTorch stores (in, out // groups, *window)
    *window, i, o = case.kernel
    g = case.groups
    kernel = w.reshape(*window, i, g, o // g).movedim(-2, 0).movedim((-2, -1), (1, 2))
    kernel = kernel.reshape(g * i, o // g, *window)
    arguments = {'padding': padding, 'output_padding': case.arguments.get('output_padding', 0)}
    f = getattr(torch.nn, f'ConvTranspose{case.ndim}d')(
        g * i, o, window, case.each('strides'), groups=g, bias=False,
        dilation=case.each('dilation'), **arguments,
    )  # fmt: skip
    size = case.arguments.get('output_size')
    extra = f._output_padding(
        x.movedim(-1, 1), size and list(size), list(f.stride), list(f.padding), window,
        case.ndim, list(f.dilation),
    )  # fmt: skip
    functional = getattr(torch.nn.functional, f'conv_transpose{case.ndim}d')
    y = functional(
        x.movedim(-1, 1), kernel, stride=f.stride, padding=f.padding, output_padding=extra,
        groups=g, dilation=f.dilation,
    ).movedim(1, -1)  # fmt: skip
    ct = normal(*y.shape, seed=1)
    y.backward(torch.tensor(ct, dtype=torch.float64))

    def run(x, w, ct):
        call = lambda x, w: cnn_jax.conv_transpose(x, w, **case.call_arguments())  # noqa: E731
        y, vjp = jax.vjp(call, x, w)
        return y, *vjp(ct)

    result = jax.jit(run)(*case.operands(), ct)
    for actual, wanted in zip(result, (y, x.grad, w.grad), strict=True):
        assert_close(actual, wanted.detach().numpy(), case.reduction)


@pytest.mark.parametrize('name', [None, *cnn_jax.implementations('conv_transpose')])
@pytest.mark.parametrize('dtype', ['int32', 'bfloat16', 'float16'])
def test_dtypes(dtype, name):
    case = next(c for c in TRANSPOSED_CASES if c.name == '2d k4 s2 p1')
    x, w = (jnp.asarray(a, dtype) for a in case.operands(np.int64))
    run = lambda x, w: cnn_jax.conv_transpose(  # noqa: E731
        x, w, implementation=name, **case.call_arguments()
    )
    try:
        y = run(x, w)
    except ValueError as error:
        # the default never declines; other kernels may not support this window or integers
        refuses = (
            'dot', 'native_dot', 'winograd', 'block_diagonal', 'native_depthwise', 'pallas',
        )  # fmt: skip
        assert name in refuses or (name and dtype == 'int32')
        assert repr(name) in str(error)
        return
    assert y.dtype == dtype
    assert_close(y, case.expected(x, w), case.reduction, 4.0)


BAD_CALLS = {
    'output padding negative': ({'output_padding': -1}, ValueError, 'output_padding'),
    'output padding too large': ({'strides': 2, 'output_padding': 2}, ValueError, '0 to 1'),
    'output size out of reach': ({'strides': 2, 'output_size': 14}, ValueError, 'size 14.*axis 0'),
    'output size and padding': ({'output_size': 9, 'output_padding': 1}, ValueError, 'not both'),
    'output size float': ({'output_size': 9.0}, TypeError, 'output_size'),
    'nothing left': ({'padding': 4}, ValueError, 'padding 4 leaves'),
    'negative padding': ({'padding': -1}, ValueError, 'padding must be at least 0'),
    'convention unknown': ({'convention': 'caffe'}, ValueError, "torch, keras, lax.*'caffe'"),
    'keras int padding': ({'convention': 'keras', 'padding': 1}, ValueError, 'keras'),
    'padding unknown': ({'padding': 'CAUSAL'}, ValueError, 'SAME, VALID'),
    'strides zero': ({'strides': (1, 0)}, ValueError, r'strides\[1\]'),
    'groups do not fit': ({'groups': 2}, ValueError, 'groups=2'),
    'dilation bool': ({'dilation': True}, TypeError, 'dilation'),
    'bias shape': ({'bias': np.zeros(3, np.float32)}, ValueError, 'bias'),
    'unknown kernel': ({'implementation': 'direct'}, ValueError, 'subpixel'),
}  # fmt: skip


@pytest.mark.parametrize('jit', [False, True], ids=['eager', 'jit'])
@pytest.mark.parametrize('call', BAD_CALLS)
def test_bad_calls_name_the_argument(call, jit):
    arguments, error, match = BAD_CALLS[call]
    x, w = np.zeros((2, 5, 4, 3), np.float32), np.zeros((3, 3, 3, 2), np.float32)
    run = lambda x, w: cnn_jax.conv_transpose(x, w, **{'padding': 0, **arguments})  # noqa: E731
    with pytest.raises(error, match=match):
        (jax.jit(run) if jit else run)(x, w)


def test_an_empty_axis_is_refused():
    with pytest.raises(ValueError, match=r'size 0.*\(2, 0, 4, 3\)'):
        cnn_jax.conv_transpose(normal(2, 0, 4, 3), normal(3, 3, 3, 2))


@pytest.mark.parametrize(
    'arguments, error, message',
    [
        ({'convention': 'keras'}, ValueError, "'circular' needs convention 'torch', got 'keras'"),
        ({'strides': 4}, ValueError, "'circular' needs padding of 0 or more"),
        ({'padding': 6}, ValueError, 'padding on spatial axis 0 must be at most'),
    ],
)
def test_padding_modes_that_cannot_be(arguments, error, message):
    x, w = normal(1, 12, 2), normal(3, 2, 3)
    with pytest.raises(error, match=message):
        cnn_jax.conv_transpose(x, w, padding_mode='circular', **arguments)


def test_padding_modes_need_floating_point():
    x, w = jnp.ones((1, 6, 2), jnp.int32), jnp.ones((3, 2, 3), jnp.int32)
    with pytest.raises(TypeError, match="'reflect' needs floating point, got x of dtype int32"):
        cnn_jax.conv_transpose(x, w, padding=1, padding_mode='reflect')

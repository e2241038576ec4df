"""ONNX models, run by ONNX Runtime, against the functions that they were made from, run by XLA."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import cnn_jax
from cnn_jax import models
from cnn_jax.errors import MissingPackageError, UserError
from cnn_jax.export import Inference, make_inference
from cnn_jax.export.onnx import OPSET, export_model
from tests.export.test_fold import create

onnxruntime = pytest.importorskip('onnxruntime', reason='the extra `onnx` is not installed')

ABOUT = {'input': {'name': 'inputs'}, 'output': {'name': 'outputs'}}
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def session(infer, **options):
    return onnxruntime.InferenceSession(export_model(infer, **options)[0])


def check(infer, x, tolerance):
    """Compares all of `x`, and its first example alone, with one ONNX model."""
    run = session(infer)
    for part in (x, x[:1]):
        expected = np.asarray(jax.jit(infer)(part))
        (y,) = run.run(None, {'inputs': part})
        assert y.shape == expected.shape and y.dtype == np.float32
        np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def of_function(function, x):
    def apply(weights, x):
        return function(x).astype(jnp.float32)

    return Inference(apply, {}, jax.ShapeDtypeStruct(x.shape[1:], x.dtype), ABOUT)


def conv(x, window=(3, 3), out=4, groups=1, **options):
    """A convolution with the features last, for any number of axes."""
    ndim = len(window)
    last = (0, ndim + 1, *range(1, ndim + 1))
    kernel = np.random.default_rng(1).standard_normal((*window, x.shape[-1] // groups, out))
    layout = lax.ConvDimensionNumbers(last, (ndim + 1, ndim, *range(ndim)), last)
    options = {'window_strides': (1,) * ndim, 'padding': 'SAME'} | options
    return lax.conv_general_dilated(
        x, np.float32(kernel), dimension_numbers=layout, feature_group_count=groups, **options
    )


CONVOLUTIONS = {
    '1d': ((9, 2), {'window': (3,)}),
    '3d': ((4, 5, 6, 2), {'window': (2, 3, 2), 'window_strides': (1, 2, 1)}),
    'strides, unequal padding': (
        (7, 8, 2),
        {'window_strides': (2, 3), 'padding': ((0, 2), (3, 1))},
    ),
    'negative padding': ((7, 8, 2), {'padding': ((-1, 2), (0, -2))}),
    'groups, dilation': ((9, 9, 4), {'groups': 2, 'rhs_dilation': (2, 3)}),
    'depthwise': ((6, 6, 4), {'groups': 4, 'out': 8}),
    'transposed': ((4, 5, 2), {'lhs_dilation': (2, 3), 'padding': ((1, 2), (0, 3))}),
    'transposed, groups, dilation': (
        (4, 5, 4),
        {'lhs_dilation': (2, 1), 'rhs_dilation': (1, 2), 'groups': 2, 'padding': ((2, 1), (3, 4))},
    ),
    'transposed, more padding': ((4, 3, 2), {'lhs_dilation': (2, 2), 'padding': ((3, 5), (4, 2))}),
}


@pytest.mark.parametrize('case', CONVOLUTIONS)
def test_convolutions(case):
    size, options = CONVOLUTIONS[case]
    x = normal(3, *size)
    check(of_function(functools.partial(conv, **options), x), x, 1e-6)


def max_pool(x, **options):
    return cnn_jax.max_pool(x, **options, implementation='reduce_window')


def avg_pool(x, **options):
    return cnn_jax.avg_pool(x, **options, implementation='reduce_window')


def windows_in_padding(x):
    window, padding = (1, 2, 2, 1), ((0, 0), (2, 3), (0, 1), (0, 0))
    return lax.reduce_window(x, np.float32(0), lax.add, window, (1, 1, 2, 1), padding)


FUNCTIONS = {
    'max_pool': lambda x: max_pool(x, window=3, strides=2, padding=1, dilation=2),
    'max_pool, ceil_mode': lambda x: max_pool(x, window=(2, 3), strides=(3, 2), ceil_mode=True),
    'avg_pool': lambda x: avg_pool(x, window=3, strides=2, padding=1, count_include_pad=False),
    'windows in padding': windows_in_padding,
    'sequence': lambda x: max_pool(x[..., 0], window=(2,)),
    # Operations on the result of a convolution, whose tensor has the features second.
    'residual': lambda x: x + conv(x),
    'concatenate': lambda x: jnp.concatenate([x, conv(x), x[..., :1]], -1),
    'split': lambda x: jnp.split(conv(x), [1, 2], axis=1)[2] + 1,
    'slice': lambda x: lax.slice_in_dim(conv(x), 1, 6, stride=2, axis=2) * np.float32([1, 2, 3, 4]),
    'indices': lambda x: (
        conv(x)[:, np.array([[0, 5, 5], [1, 2, -1]])].max(2) + x[:, 2:3, 5, 1:2, None]
    ),
    'pad': lambda x: lax.pad(conv(x), 0.5, ((0, 0, 0), (1, -1, 0), (-2, 0, 0), (0, 3, 0))),
    'flatten': lambda x: conv(x).transpose(0, 3, 1, 2).reshape(x.shape[0], -1) @ np.eye(288, 9),
    'scale': lambda x: conv(x) * jax.nn.sigmoid(conv(x).mean((1, 2), keepdims=True)),
    'softmax': lambda x: jax.nn.softmax(conv(x)) - conv(x).max(1, keepdims=True),
    'argmax': lambda x: conv(x).argmax(-1),
    'dot over the height': lambda x: jnp.einsum('bhwc,hk->bkwc', conv(x), np.eye(8, 3)),
    'dot of examples': lambda x: jnp.einsum('bhwc,bhvc->bhwv', x, conv(x)),
    'select': lambda x: jnp.where((x > 0) & (x != 1) | ~(x <= -1), x, jnp.abs(x) ** 1.5),
    'powers': lambda x: x**2 + x**3 + lax.rsqrt(1 + x * x),
    'upsample': lambda x: jax.image.resize(conv(x), (x.shape[0], 16, 18, 4), 'bilinear'),
    **{
        name: getattr(jax.nn, name)
        for name in ('elu', 'gelu', 'hard_swish', 'leaky_relu', 'log_softmax', 'relu6', 'silu')
        + ('softplus', 'soft_sign')
    },
    'exact gelu': functools.partial(jax.nn.gelu, approximate=False),
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_functions(name):
    x = normal(3, 8, 9, 4)
    check(of_function(FUNCTIONS[name], x), x, 5e-6)


def test_integers():
    x = RNG.integers(0, 256, (3, 8, 9, 4), np.uint8)
    check(of_function(lambda x: conv(x.astype(jnp.float32) / 255), x), x, 1e-6)


def check_model(name):
    model, x = create(name)
    if models.MODELS[name].task == 'generator':
        x = normal(2, *model.input_shape)
    x = np.asarray(x if model.kind != 'text' else abs(100 * x) % 50)
    if model.kind == 'text':
        x = x.astype(np.int32)
    example = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    check(make_inference(model, lambda model, x, _: model(x), example, ABOUT), x, 1e-5)


FAST = ('dcgan_generator', 'm3', 'mlp', 'textcnn', 'unet', 'vae')


@pytest.mark.parametrize('name', FAST)
def test_models(name):
    check_model(name)


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in models.names() if name not in FAST])
def test_every_model(name):
    check_model(name)


def test_what_onnx_lacks_is_named():
    x = normal(2, 5)
    for function, message in (
        (lambda x: jnp.sort(x), r'the equation sort of float32\[batch,5\] .*there is no rule'),
        (lambda x: x * x.shape[0], 'the equation dim_as_value .*the symbolic size batch'),
        (lambda x: jnp.concatenate([x, 0 * jnp.ones_like(x)]), 'a constant would be repeated to'),
        (lambda x: lax.pad(x, np.float32(0), ((0, 0, 0), (0, 0, 1))), 'pads between elements'),
    ):
        with pytest.raises(UserError, match=message) as error:
            export_model(of_function(function, x))
        assert '\n' not in str(error.value)


def test_versions_of_operators():
    x = normal(2, 5)
    infer = of_function(lambda x: x + 1, x)
    for opset in (19, OPSET):
        (y,) = session(infer, opset=opset).run(None, {'inputs': x})
        np.testing.assert_array_equal(y, x + 1)
    for opset in (18, 1000):
        with pytest.raises(UserError, match=f'opset={opset}: must be from 19 to'):
            export_model(infer, opset=opset)


def test_missing_package(monkeypatch):
    for name in [name for name in sys.modules if name.startswith('cnn_jax.export.onnx.')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(MissingPackageError, match=r"pip install 'cnn_jax\[onnx\]'"):
        export_model(of_function(lambda x: x, normal(2, 5)))

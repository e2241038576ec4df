"""Tests that Conv and ConvTranspose have the same parameters and values as Flax's layers."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import nn

# Sums of 27 products of standard normal numbers in float32.
TOLERANCE = {'rtol': 1e-5, 'atol': 1e-5}


def draw(shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def init(key, shape, dtype):
    """Draws weights in NumPy; JAX's generator takes seconds to compile for small odd shapes."""
    return jnp.asarray(draw(shape), dtype)


def layers(ours, flax, *arguments, **options):
    """Returns our layer and Flax's layer with the same weights."""
    options |= {'kernel_init': init, 'bias_init': init}
    convention = options.pop('convention', None)
    ours_only = {} if convention is None else {'convention': convention}
    return (
        ours(*arguments, **options, **ours_only, rngs=nnx.Rngs(1)),
        flax(*arguments, **options, rngs=nnx.Rngs(1)),
    )


CONVS = {
    'default': ((3, 3), (9, 8), {}),
    'valid_strided': ((3, 2), (9, 8), {'strides': (2, 3), 'padding': 'VALID', 'use_bias': False}),
    'causal_1d': (3, (11,), {'padding': 'CAUSAL', 'kernel_dilation': 2}),
    '3d': ((2, 1, 3), (4, 3, 5), {'strides': 2, 'padding': 1}),
    'circular': ((4, 3), (9, 8), {'padding': 'CIRCULAR', 'strides': 2}),
    'reflect': ((3, 3), (9, 8), {'padding': 'REFLECT', 'kernel_dilation': (2, 1)}),
    'groups': ((3, 3), (9, 8), {'feature_group_count': 3, 'padding': ((2, 0), (1, 3))}),
    'input_dilation': ((3, 3), (5, 4), {'input_dilation': (2, 1), 'padding': (0, 0)}),
}


@pytest.mark.parametrize('case', CONVS)
def test_conv_equals_flax(case):
    window, size, options = CONVS[case]
    ours, flax = layers(nn.Conv, nnx.Conv, 3, 6, window, **options)
    x = draw((2, *size, 3))
    y, expected = nnx.jit(lambda a, b: (a(x), b(x)))(ours, flax)
    np.testing.assert_allclose(y, expected, **TOLERANCE)
    assert ours.output_size(size) == y.shape[1:-1]


@pytest.mark.parametrize(
    ('ours', 'flax'), [(nn.Conv, nnx.Conv), (nn.ConvTranspose, nnx.ConvTranspose)]
)
def test_initial_weights_are_flaxs(ours, flax):
    first, second = (layer(32, 64, (3, 3), rngs=nnx.Rngs(1)) for layer in (ours, flax))
    np.testing.assert_array_equal(first.kernel[...], second.kernel[...])
    np.testing.assert_array_equal(first.bias[...], second.bias[...])


def test_conv_mask_hides_weights():
    mask = jnp.zeros((3, 3, 2, 4)).at[1, 1].set(1)
    layer = nn.Conv(2, 4, (3, 3), mask=mask, kernel_init=init, rngs=nnx.Rngs(0))
    x = draw((1, 5, 5, 2))
    only_centre = np.einsum('nhwc,co->nhwo', x, layer.kernel[...][1, 1])
    np.testing.assert_allclose(layer(x), only_centre, **TOLERANCE)


def test_conv_computes_in_dtype_and_keeps_float32_parameters():
    layer = nn.Conv(3, 4, (3, 3), dtype=jnp.bfloat16, kernel_init=init, rngs=nnx.Rngs(0))
    assert layer.kernel[...].dtype == jnp.float32
    assert layer(jnp.ones((1, 4, 4, 3))).dtype == jnp.bfloat16


def test_conv_runs_by_the_named_implementation():
    options = {'implementation': 'no_such_kernel', 'kernel_init': init}
    layer = nn.Conv(3, 4, (3, 3), **options, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match='no_such_kernel'):
        layer(jnp.ones((1, 4, 4, 3)))


TRANSPOSED = {
    'same': ((3, 3), (4, 5), {'strides': (2, 3)}),
    'dilated': ((3, 2), (4, 5), {'kernel_dilation': 2, 'padding': 'VALID'}),
    'pairs_1d': (4, (7,), {'strides': 2, 'padding': ((1, 2),)}),
}


@pytest.mark.parametrize('case', TRANSPOSED)
def test_conv_transpose_in_lax_convention_equals_flax(case):
    window, size, options = TRANSPOSED[case]
    options = options | {'convention': 'lax'}
    ours, flax = layers(nn.ConvTranspose, nnx.ConvTranspose, 3, 6, window, **options)
    x = draw((2, *size, 3))
    y, expected = nnx.jit(lambda a, b: (a(x), b(x)))(ours, flax)
    np.testing.assert_allclose(y, expected, **TOLERANCE)
    assert ours.output_size(size) == y.shape[1:-1]


@pytest.mark.parametrize(
    'options',
    [
        {'strides': (2, 3), 'padding': (1, 0), 'output_padding': (1, 2)},
        {'strides': 2, 'padding': 1, 'feature_group_count': 2},
        {'strides': 1, 'padding': 0, 'kernel_dilation': 2, 'use_bias': False},
    ],
)
def test_conv_transpose_equals_torch(options):
    torch = pytest.importorskip('torch')
    ours = nn.ConvTranspose(4, 6, (3, 4), **options, kernel_init=init, rngs=nnx.Rngs(1))
    names = {
        'strides': 'stride',
        'feature_group_count': 'groups',
        'kernel_dilation': 'dilation',
        'use_bias': 'bias',
    }
    theirs = torch.nn.ConvTranspose2d(
        4, 6, (3, 4), **{names.get(name, name): value for name, value in options.items()}
    )
    groups = options.get('feature_group_count', 1)
    # PyTorch: (in, out // groups, h, w); ours: (h, w, in // groups, out), with out grouped
    weight = theirs.weight.detach().numpy().reshape(groups, 4 // groups, 6 // groups, 3, 4)
    kernel = weight.transpose(3, 4, 1, 0, 2).reshape(3, 4, 4 // groups, 6)
    ours.kernel[...] = jnp.asarray(kernel)
    if theirs.bias is not None:
        ours.bias[...] = jnp.asarray(theirs.bias.detach().numpy())
    x = draw((2, 5, 6, 4))
    expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2))).detach().numpy()
    y = ours(x)
    np.testing.assert_allclose(y, expected.transpose(0, 2, 3, 1), **TOLERANCE)
    assert ours.output_size((5, 6)) == y.shape[1:-1]


@pytest.mark.parametrize('module', [nn.Conv, nn.ConvTranspose])
@pytest.mark.parametrize('features', [(3, 4), (4, 3), (0, 2)])
def test_groups_must_divide_features(module, features):
    with pytest.raises(ValueError, match='features=[03] must be a positive multiple'):
        module(*features, (3, 3), feature_group_count=2, rngs=nnx.Rngs(0))


def test_conv_refuses_a_mask_of_another_shape():
    with pytest.raises(ValueError, match=r'\(3, 3, 2, 4\)'):
        nn.Conv(2, 4, (3, 3), mask=jnp.ones((3, 3)), kernel_init=init, rngs=nnx.Rngs(0))

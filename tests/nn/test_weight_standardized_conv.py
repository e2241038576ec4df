"""`WeightStandardizedConv` against its formula in float64, and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import nn
from cnn_jax.inspection import flops

OPTIONS = [
    {'kernel_size': 5},
    {'kernel_size': (3, 3), 'strides': 2, 'padding': 1},
    {'kernel_size': (3, 3), 'feature_group_count': 2, 'epsilon': 0.1},
    {'kernel_size': (3, 2, 1), 'use_bias': False},
    {'kernel_size': (3, 3), 'feature_group_count': 4},  # depthwise
]


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make(options):
    layer = nn.WeightStandardizedConv(4, 8, rngs=nnx.Rngs(0), **options)
    layer.kernel[...] = jnp.asarray(3 + 2 * normal(layer.kernel_shape, 1), layer.param_dtype)
    return layer


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_the_kernel_is_standardised_per_output_channel(options):
    layer = make(options)
    wide = np.asarray(layer.kernel[...], np.float64)
    axes = tuple(range(wide.ndim - 1))
    expected = (wide - wide.mean(axes)) / np.sqrt(wide.var(axes) + options.get('epsilon', 1e-5))
    np.testing.assert_allclose(layer.effective_kernel(), expected, rtol=1e-5, atol=1e-6)
    plain = nn.Conv(4, 8, rngs=nnx.Rngs(0), **{k: options[k] for k in options if k != 'epsilon'})
    nnx.update(plain, nnx.state(layer))  # the same parameters
    plain.kernel[...] = expected.astype(np.float32)
    x = normal((2, *[6] * (wide.ndim - 2), 4))
    y = nnx.jit(lambda layer, x: layer(x))(layer, x)
    np.testing.assert_allclose(y, plain(x), rtol=1e-5, atol=1e-5)
    assert flops.macs(layer, x.shape[1:]) == flops.macs(plain, x.shape[1:])


@pytest.mark.parametrize('groups', [1, 2])
def test_gradients_are_those_of_pytorch(groups):
    torch = pytest.importorskip('torch')
    layer = make({'kernel_size': (3, 3), 'padding': 1, 'feature_group_count': groups})
    graph, params = nnx.split(layer)
    x, weights = normal((2, 5, 4, 4)), normal((2, 5, 4, 8), 2)
    loss = lambda p, x: (nnx.merge(graph, p)(x) * weights).sum()  # noqa: E731
    ours = jax.grad(loss, (0, 1))(params, x)
    kernel, tx = (
        torch.tensor(np.asarray(a, np.float64), requires_grad=True)
        for a in (layer.kernel[...].transpose(3, 2, 0, 1), x.transpose(0, 3, 1, 2))
    )
    # The statistics over each output channel are those of a batch norm of the kernel.
    flat = kernel.reshape(1, 8, -1)
    standard = torch.nn.functional.batch_norm(flat, None, None, training=True, eps=1e-5)
    y = torch.nn.functional.conv2d(tx, standard.reshape(kernel.shape), padding=1, groups=groups)
    np.testing.assert_allclose(
        layer(x), y.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4
    )
    (y * torch.tensor(weights.transpose(0, 3, 1, 2))).sum().backward()
    for mine, its in (
        (ours[0]['kernel'][...], kernel.grad.numpy().transpose(2, 3, 1, 0)),
        (ours[1], tx.grad.numpy().transpose(0, 2, 3, 1)),
    ):
        np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-4)
    # The output does not depend on the shift and scale of the kernel, so neither has a gradient.
    gradient = np.asarray(ours[0]['kernel'][...])
    np.testing.assert_allclose(gradient.sum((0, 1, 2)), 0, atol=1e-4)


def test_dtypes_masks_and_constant_kernels():
    layer = make({'kernel_size': (3, 3), 'dtype': jnp.bfloat16, 'param_dtype': jnp.bfloat16})
    layer.kernel[...] = jnp.asarray(100 + normal(layer.kernel_shape), jnp.bfloat16)
    kernel = layer.effective_kernel()
    assert kernel.dtype == layer(jnp.ones((1, 4, 4, 4))).dtype == jnp.bfloat16
    wide = np.asarray(layer.kernel[...], np.float64)
    expected = (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(np.asarray(kernel, np.float64), expected, rtol=2**-8, atol=1e-3)
    mask = np.ones((3, 3, 4, 8), np.float32)
    mask[0] = 0
    masked = make({'kernel_size': (3, 3), 'mask': mask})
    unmasked = make({'kernel_size': (3, 3)}).effective_kernel()
    np.testing.assert_array_equal(masked.effective_kernel(), unmasked * mask)
    constant = make({'kernel_size': (3, 3)})
    constant.kernel[...] = jnp.full((3, 3, 4, 8), 0.5)
    gradient = nnx.grad(lambda layer: layer(jnp.ones((1, 4, 4, 4))).sum())(constant)
    assert (constant.effective_kernel() == 0).all()
    assert jnp.isfinite(gradient['kernel'][...]).all()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'kernel_size': (1, 1), 'feature_group_count': 4}, r'kernel_size=\(1, 1\): with one '),
        ({'kernel_size': (3, 3), 'epsilon': -1.0}, 'epsilon=-1.0: must be at least 0'),
        ({'kernel_size': (3, 3), 'feature_group_count': 3}, 'in_features=4 must be a positive'),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(options)

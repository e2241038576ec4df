"""Whole models against the same architecture written in PyTorch, with the weights copied over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models

torch = pytest.importorskip('torch', reason='the compare extra is not installed')
F = torch.nn.functional


def rows(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def tensor(x):
    return torch.from_numpy(np.array(x, order='C'))


def weights(variable):
    """A kernel (*window, in, out) as PyTorch's (out, in, *window); a dense one as (out, in)."""
    return tensor(np.moveaxis(np.asarray(variable[...]), (-1, -2), (0, 1)))


def conv(x, layer, **options):
    """x (N, C, *size) through one of our convolutions' weights, by PyTorch."""
    function = F.conv1d if x.ndim == 3 else F.conv2d
    bias = None if layer.bias is None else tensor(layer.bias[...])
    return function(x, weights(layer.kernel), bias, **options)


def dense(x, layer):
    bias = None if layer.bias is None else tensor(layer.bias[...])
    return F.linear(x, weights(layer.kernel), bias)


def norm(x, layer, epsilon):
    scale = None if layer.scale is None else tensor(layer.scale[...])
    mean, var, bias = (tensor(v[...]) for v in (layer.mean, layer.var, layer.bias))
    return F.batch_norm(x, mean, var, scale, bias, eps=epsilon)


def flat(x):
    """(N, C, *size) to (N, size x C) in our order, channels last."""
    return x.movedim(1, -1).flatten(1)


def mnist1d_cnn(net, x):
    for name, padding in (('conv1', 1), ('conv2', 1), ('conv3', 1)):
        x = F.relu(conv(x, getattr(net, name), stride=2, padding=padding))
    return dense(flat(x), net.logits)


def m5(net, x):
    x = F.pad(x, (38, 38))  # 'SAME' for a window of 80, stride 4, on a multiple of 4
    for i in range(1, 5):
        x = conv(x, getattr(net, f'conv{i}'), stride=4 if i == 1 else 1, padding=int(i > 1))
        x = F.max_pool1d(F.relu(norm(x, getattr(net, f'bn{i}'), 1e-5)), 4)
    return dense(x.mean(-1), net.fc)


def lenet5(net, x):
    x = F.avg_pool2d(torch.tanh(conv(x, net.c1, padding=2)), 2)
    x = F.avg_pool2d(torch.tanh(conv(x, net.c3)), 2)
    x = torch.tanh(dense(flat(x), net.c5))
    return dense(torch.tanh(dense(x, net.f6)), net.logits)


def nin(net, x):
    for stage, side in ((1, 5), (2, 5), (3, 3)):
        x = F.relu(conv(x, getattr(net, f'conv{stage}'), padding=side // 2))
        for i in (1, 2):
            x = F.relu(conv(x, getattr(net, f'mlp{i}_{stage}')))
        if stage == 1:
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        if stage == 2:
            x = F.avg_pool2d(x, 3, 2, ceil_mode=True)
    return x.mean((2, 3))


def mobilenet(net, x):
    def unit(x, layers, stride=1, groups=1):
        side = layers.conv.kernel.shape[0]
        x = conv(x, layers.conv, stride=stride, padding=side // 2, groups=groups)
        return F.relu(norm(x, layers.bn, 1e-5))

    x = unit(x, net.stem)
    for i, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1), start=1):
        block = getattr(net, f'block{i}')
        x = unit(unit(x, block.depthwise, stride, groups=x.shape[1]), block.pointwise)
    return dense(x.mean((2, 3)), net.fc)


def wide_resnet(net, x):
    def activated(x, layer):
        return F.relu(norm(x, layer, 1e-5))

    x = conv(x, net.conv1, padding=1)
    for stage in (1, 2, 3):
        block = getattr(net, f'layer{stage}').block0
        x = activated(x, block.bn1)
        branch, stride = block.residual, 1 if stage == 1 else 2
        y = activated(conv(x, branch.conv1, stride=stride, padding=1), branch.bn2)
        x = conv(y, branch.conv2, padding=1) + conv(x, branch.shortcut.conv, stride=stride)
    return dense(activated(x, net.bn).mean((2, 3)), net.fc)


def cifar_resnet(net, x):
    x = F.relu(norm(conv(x, net.conv1, padding=1), net.bn1, 1e-5))
    for stage in (1, 2, 3):
        block, stride = getattr(net, f'layer{stage}').block0, 1 if stage == 1 else 2
        y = F.relu(norm(conv(x, block.conv1, stride=stride, padding=1), block.bn1, 1e-5))
        y = norm(conv(y, block.conv2, padding=1), block.bn2, 1e-5)
        x = x[:, :, ::stride, ::stride]
        x = F.relu(y + F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])))
    return dense(x.mean((2, 3)), net.fc)


def airbench(net, x):
    x = F.gelu(conv(x, net.whiten))
    for i in (1, 2, 3):
        group = getattr(net, f'group{i}')
        x = F.gelu(norm(F.max_pool2d(conv(x, group.conv1, padding=1), 2), group.norm1, 1e-12))
        x = F.gelu(norm(conv(x, group.conv2, padding=1), group.norm2, 1e-12))
    return dense(flat(F.max_pool2d(x, 3)), net.fc) / 9


TWINS = {
    'mnist1d_cnn': (mnist1d_cnn, {'input_shape': (40, 1)}),
    'm5': (m5, {'input_shape': (1100, 1), 'features': (3, 4, 5, 6)}),
    'lenet5': (lenet5, {'input_shape': (28, 28, 1)}),
    'nin': (nin, {'input_shape': (32, 32, 3)}),
    'mobilenet': (mobilenet, {'input_shape': (32, 32, 3), 'width': 0.05}),
    'wrn28_10': (wide_resnet, {'input_shape': (16, 16, 3), 'depth': 10, 'widen': 2}),
    'cifar_resnet20': (cifar_resnet, {'input_shape': (16, 16, 3), 'depth': 8, 'width': 4}),
    'airbench': (airbench, {'input_shape': (32, 32, 3), 'widths': (4, 5, 6)}),
}


@pytest.mark.parametrize('name', TWINS)
def test_logits_equal_those_of_torch(name):
    twin, arguments = TWINS[name]
    model = filled(lambda: models.create(name, num_classes=7, rngs=nnx.Rngs(0), **arguments))
    model.eval()
    x = rows(2, *arguments['input_shape'])
    logits = np.asarray(nnx.jit(lambda m, x: m(x))(model, x))
    expected = twin(model.layers, tensor(np.moveaxis(x, -1, 1))).numpy()
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


def test_textcnn_equals_torch():
    arguments = {'vocabulary_size': 30, 'embedding': 8, 'filters': 5, 'windows': (2, 3)}
    model = filled(
        lambda: models.create(
            'textcnn', input_shape=(9,), num_classes=4, rngs=nnx.Rngs(0), **arguments
        )
    )
    model.eval()
    ids = np.random.default_rng(0).integers(0, 30, (3, 9)).astype(np.int32)
    ids[:, 6:] = 0
    vectors = tensor(model.embed.embedding[...]).clone()
    vectors[0] = 0
    x = F.embedding(tensor(ids).long(), vectors).movedim(1, 2)
    pooled = [F.relu(conv(x, c)).amax(-1) for c in (model.conv2, model.conv3)]
    expected = dense(torch.cat(pooled, 1), model.logits).numpy()
    logits = nnx.jit(lambda m, x: m(x))(model, ids)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_generator_equals_torch():
    model = filled(
        lambda: models.create(
            'dcgan_generator',
            input_shape=(28, 28, 1),
            num_classes=1,
            rngs=nnx.Rngs(0),
            latent=6,
            width=3,
        )
    )
    model.eval()
    z = rows(2, 6)
    net, x = model.layers, tensor(z)[:, :, None, None]

    def up(x, layer, **options):
        """PyTorch keeps transposed kernels as (in, out, *window)."""
        kernel = tensor(np.moveaxis(np.asarray(layer.kernel[...]), (-2, -1), (0, 1)))
        return F.conv_transpose2d(x, kernel, **options)

    x = F.relu(norm(up(x, net.deconv0), net.bn0, 1e-5))
    x = F.relu(norm(up(x, net.deconv1, stride=2, padding=1), net.bn1, 1e-5))
    expected = torch.tanh(up(x, net.image, stride=2, padding=1)).numpy()
    images = nnx.jit(lambda m, x: m(x))(model, z)
    np.testing.assert_allclose(images, np.moveaxis(expected, 1, -1), rtol=1e-5, atol=1e-5)


def filled(build):
    """A model with NumPy's weights, batch statistics too: JAX's generators are slow to compile."""
    graph, state = nnx.split(nnx.eval_shape(build))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if leaf.ndim > 1:  # about unit variance from layer to layer
            fan_in = np.prod(leaf.shape[:-1])
            return jnp.asarray(rng.standard_normal(leaf.shape) * (2 / fan_in) ** 0.5, leaf.dtype)
        values = 1 + 0.2 * rng.uniform(size=leaf.shape)
        if not {'scale', 'var'} & {str(getattr(key, 'key', key)) for key in path}:
            values = 0.2 * rng.standard_normal(leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, state))

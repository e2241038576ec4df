"""U-Net and FCN: published sizes, PyTorch's logits and gradients, and sizes that do not fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.errors import UserError
from cnn_jax.inspection import flops
from cnn_jax.models import unet
from cnn_jax.training.state import FunctionalModel


def abstract(name, **arguments):
    return nnx.eval_shape(lambda: models.create(name, **arguments, rngs=nnx.Rngs(0)))


def test_unet_of_the_paper():
    """Figure 1: 572 x 572 -> 388 x 388. The count is the sum over that figure's convolutions."""
    model = abstract('unet', input_shape=(572, 572, 1), num_classes=2, padding='valid')
    two = lambda a, b: 9 * a * b + b + 9 * b * b + b  # noqa: E731
    widths = (64, 128, 256, 512, 1024)
    expected = two(1, 64) + sum(two(a, 2 * a) for a in widths[:-1])
    expected += sum(4 * 2 * a * a + a + two(2 * a, a) for a in widths[:-1]) + 64 * 2 + 2
    assert flops.parameters(model) == expected == 31_030_658
    rows = {row.name: row.output_shape for row in flops.summary(model)}
    assert rows['logits'] == (388, 388, 2)
    sides = {name: rows[f'{name}.conv2'][0] for name in ('down1', 'down4', 'bottom', 'up4', 'up1')}
    assert sides == {'down1': 568, 'down4': 64, 'bottom': 28, 'up4': 52, 'up1': 388}


def test_fcn_resnet50_of_torchvision():
    """35,322,218 parameters and 152.717 GFLOPS at 520 x 520, as stated there, with a second head.

    That head is a 3 x 3 convolution from 1024 to 256 channels with batch norm and a 1 x 1
    convolution with bias, at 65 x 65 pixels.
    """
    model = abstract('fcn_resnet50', input_shape=(520, 520, 3), num_classes=21)
    second = 9 * 1024 * 256 + 2 * 256 + 256 * 21 + 21
    assert flops.parameters(model) + second == 35_322_218
    macs = flops.macs(model) + 65 * 65 * (9 * 1024 * 256 + 256 * 21)
    assert macs == pytest.approx(152.717e9, abs=0.5e6)


SMALL = {
    'unet': {'input_shape': (8, 12, 2), 'width': 3, 'depth': 2},
    'unet_valid': {'input_shape': (20, 22, 2), 'width': 3, 'depth': 1, 'padding': 'valid'},
    'unet_bn': {'input_shape': (6, 8, 1), 'width': 3, 'depth': 1, 'batch_norm': True},
    'fcn_resnet18': {'input_shape': (70, 65, 3), 'width': 4, 'dropout': 0.0},
    'fcn_resnet50': {'input_shape': (64, 66, 3), 'width': 2, 'dropout': 0.0},
}


@functools.cache
def small(name):
    """Returns the model, and random weights that keep the variance near 1 in every layer."""
    build = name if name in models.names() else 'unet'
    net = FunctionalModel(
        lambda rngs: models.create(build, num_classes=5, rngs=rngs, **SMALL[name])
    )
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if len(leaf.shape) > 1:
            scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5
            return (rng.standard_normal(leaf.shape) * scale).astype(np.float32)
        if path.endswith(('scale', 'var')):
            return (1 + 0.2 * rng.uniform(size=leaf.shape)).astype(np.float32)
        return (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32)

    x = rng.standard_normal((2, *net.model.input_shape)).astype(np.float32)
    parts = (net.params, net.model_state)
    return net, *({n: fill(n, leaf) for n, leaf in part.items()} for part in parts), x


@pytest.mark.parametrize(
    ('name', 'training'),
    [
        ('unet', False),
        ('unet_valid', False),
        ('unet_bn', True),
        ('fcn_resnet18', False),
        ('fcn_resnet50', False),
    ],
)
def test_logits_and_gradients_are_those_of_torch(name, training):
    torch = pytest.importorskip('torch', reason='the compare extra is not installed')
    from cnn_jax.bench.parity.torch_networks import NETWORKS, from_torch, to_torch

    net, params, model_state, x = small(name)

    @jax.jit
    def run(params, model_state, x, weights):
        def loss(params, x):
            if training:
                logits, _ = net.train(params, model_state, jax.random.key(0), x)
            else:
                logits = net.predict(params, model_state, x)
            return (logits * weights).sum(), logits

        (_, logits), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)
        return logits, gradients

    shape = jax.eval_shape(net.predict, params, model_state, x).shape
    weights = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    logits, (gradients, into_x) = run(params, model_state, x, weights)

    p = {n: torch.from_numpy(to_torch(n, a)) for n, a in (params | model_state).items()}
    for path in params:
        p[path].requires_grad_(True)
    given = torch.from_numpy(x).movedim(-1, 1).requires_grad_(True)
    twin = NETWORKS[name if name in NETWORKS else 'unet']
    options = {'padding': 0} if 'valid' in name else {}
    result = twin(p | {'training': training}, given, **options).movedim(1, -1)
    (result * torch.from_numpy(weights)).sum().backward()
    close = lambda a, b: np.testing.assert_allclose(  # noqa: E731
        a, b, rtol=2e-3, atol=2e-4 * np.abs(b).max()
    )
    close(logits, result.detach().numpy())
    close(into_x, given.grad.movedim(1, -1).numpy())
    for path, gradient in gradients.items():
        close(gradient, from_torch(path, p[path].grad.numpy()))


@pytest.mark.parametrize('name', ['unet', 'fcn_resnet18'])
def test_logits_are_float32_and_feature_maps_are_named(name):
    def run(x):
        maps = {}
        arguments = SMALL[name] | {'dtype': jnp.bfloat16}
        model = models.create(name, num_classes=5, rngs=nnx.Rngs(0), **arguments)
        return model(x, intermediates=maps), maps

    height, width, channels = SMALL[name]['input_shape']
    logits, maps = jax.eval_shape(run, jax.ShapeDtypeStruct((0, height, width, channels), 'f4'))
    assert (logits.shape, logits.dtype) == ((0, height, width, 5), jnp.float32)
    assert maps['up1.relu2' if name == 'unet' else 'layer4.block1'].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ('side', 'depth', 'padding', 'output'),
    [
        (572, 4, 'valid', 388),
        (188, 4, 'valid', 4),
        (172, 4, 'valid', 0),
        (100, 4, 'valid', 0),
        (16, 4, 'same', 16),
        (28, 2, 'same', 28),
        (28, 3, 'same', 0),
        (8, 4, 'same', 0),
    ],
)
def test_sizes_that_fit(side, depth, padding, output):
    assert unet.output_side(side, depth, padding) == output
    options = {'input_shape': (side, side, 1), 'num_classes': 2, 'depth': depth, 'width': 1}
    if output:
        model = abstract('unet', **options, padding=padding)
        assert flops.summary(model)[-1].output_shape == (output, output, 2)
    else:
        with pytest.raises(UserError, match=f'an image side of {side} pixels does not fit depth'):
            abstract('unet', **options, padding=padding)


@pytest.mark.parametrize('side', [17, 28, 100, 187, 571])
@pytest.mark.parametrize('padding', ['same', 'valid'])
def test_the_sizes_that_are_named_fit(side, padding):
    with pytest.raises(UserError) as error:
        abstract('unet', input_shape=(side, side, 1), num_classes=2, padding=padding, width=1)
    named = str(error.value).partition('it must be ')[2].partition(',')[0].split(' or ')
    assert all(unet.output_side(int(n), 4, padding) for n in named)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'padding': 'reflect'}, "padding='reflect' must be 'same' or 'valid'"),
        ({'depth': 0}, 'depth=0 and width=64 must be at least 1'),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        abstract('unet', input_shape=(32, 32, 1), num_classes=2, **options)

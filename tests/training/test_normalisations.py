"""Flax's normalisations beside our convolutions: a few training steps against PyTorch's."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flax import nnx

from cnn_jax import nn
from cnn_jax.training.state import FunctionalModel
from tests.training import tiny

torch = pytest.importorskip('torch')
F = torch.nn.functional

U = "conv/batch_stats/('kernel', 'u')"


@dataclasses.dataclass
class Case:
    """A normalisation as a module, and as a function of the first convolution in PyTorch."""

    torch: Callable[..., Any]
    norm: Callable[..., Any] = lambda rngs: lambda x: x
    wrap: Callable[..., Any] = lambda conv, rngs: conv


def conv(x, kernel, bias):
    return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1)


def group_norm(p, _, x):
    y = conv(x, p['conv/kernel'], p['conv/bias'])
    return F.group_norm(y, 2, p['norm/scale'], p['norm/bias'], eps=1e-6)


def layer_norm(p, _, x):
    y = conv(x, p['conv/kernel'], p['conv/bias']).permute(0, 2, 3, 1)
    return F.layer_norm(y, (4,), p['norm/scale'], p['norm/bias'], eps=1e-6).permute(0, 3, 1, 2)


def spectral_norm(p, stats, x):
    """One step of power iteration per call; u and v are constants (arXiv:1802.05957)."""
    kernel = p['conv/layer_instance/kernel']
    matrix = kernel.reshape(-1, 4)
    with torch.no_grad():
        v = F.normalize(stats[U] @ matrix.T)
        stats[U] = F.normalize(v @ matrix)
    return conv(x, kernel / (v @ matrix @ stats[U].T), p['conv/layer_instance/bias'])


CASES = {
    'group': Case(group_norm, norm=lambda rngs: nnx.GroupNorm(4, num_groups=2, rngs=rngs)),
    'layer': Case(layer_norm, norm=lambda rngs: nnx.LayerNorm(4, rngs=rngs)),
    'spectral': Case(spectral_norm, wrap=lambda conv, rngs: nnx.SpectralNorm(conv, rngs=rngs)),
}


class Normalised(nnx.Module):
    """A convolution with a normalisation, a weight-standardised one, and a dense layer."""

    def __init__(self, rngs, case):
        self.conv = case.wrap(nn.Conv(1, 4, (3, 3), rngs=rngs), rngs)
        self.norm = case.norm(rngs)
        self.conv2 = nn.WeightStandardizedConv(4, 4, (3, 3), rngs=rngs)
        self.out = nnx.Linear(4, tiny.CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.out(nnx.relu(self.conv2(x)).mean((1, 2)))


@pytest.mark.parametrize('name', CASES)
def test_training_is_that_of_pytorch(name):
    if name == 'spectral' and not hasattr(nnx, 'SpectralNorm'):
        pytest.skip('nnx.SpectralNorm is new in flax 0.12')
    case, steps, batch = CASES[name], 3, 16
    make = lambda rngs: Normalised(rngs, case)  # noqa: E731
    state, metrics = tiny.run(steps, batch, model=make)

    params, stats = (
        {key: torch.tensor(np.asarray(value)) for key, value in values.items()}
        for values in FunctionalModel(make).init(0)
    )
    momentum = {key: torch.zeros_like(value) for key, value in params.items()}
    dataset, losses = tiny.tiny_dataset(), []
    train = dataset.splits['train']
    for rows in np.arange(steps * batch).reshape(steps, batch) % len(train):
        params = {key: value.detach().requires_grad_() for key, value in params.items()}
        images = torch.tensor(np.asarray(dataset.normalize(train.inputs[rows])))
        x = torch.relu(case.torch(params, stats, images.permute(0, 3, 1, 2)))
        w = params['conv2/kernel']
        w = (w - w.mean((0, 1, 2))) / torch.sqrt(w.var((0, 1, 2), unbiased=False) + 1e-5)
        x = torch.relu(conv(x, w, params['conv2/bias'])).mean((2, 3))
        logits = x @ params['out/kernel'] + params['out/bias']
        loss = F.cross_entropy(logits, torch.tensor(train.labels[rows], dtype=torch.long))
        loss.backward()
        momentum = {key: 0.9 * old + params[key].grad for key, old in momentum.items()}
        params = {key: value - 0.1 * momentum[key] for key, value in params.items()}
        losses.append(loss.item())

    np.testing.assert_allclose(metrics['loss'], losses, rtol=1e-4)
    for key, value in params.items():
        np.testing.assert_allclose(state.params[key], value.detach(), rtol=1e-3, atol=1e-4)
    if name == 'spectral':
        np.testing.assert_allclose(state.model_state[U], stats[U], rtol=1e-3, atol=1e-4)

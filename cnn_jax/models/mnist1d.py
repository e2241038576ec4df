"""The baselines of MNIST-1D: a CNN, an MLP and a linear classifier.

Greydanus & Kobak 2020, "Scaling Down Deep Learning with MNIST-1D", arXiv:2011.14439, with the
layers of the authors' repository. `mlp` and `logistic` accept any image or waveform.

    | model         | input    | classes | parameters | MACs   |
    |---------------|----------|---------|------------|--------|
    | mnist1d_cnn   | (40, 1)  |      10 |      5,210 | 31.8 k |
    | mlp           | (40, 1)  |      10 |     15,210 | 15.0 k |
    | logistic      | (40, 1)  |      10 |        410 |  0.4 k |
"""

import math
from collections.abc import Sequence
from typing import Any

from flax import nnx

from cnn_jax import nn
from cnn_jax.models.base import Classifier, LayerFactory, flat_features


def cnn(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    channels: int = 25,
) -> Classifier:
    """Makes a CNN with three convolutions of stride 2 over time and one dense layer.

    Args:
        channels: channels of each convolution.
    """
    layers: dict[str, Any] = {}
    features = input_shape[-1]
    for i, window in enumerate((5, 3, 3), start=1):
        layers[f'conv{i}'] = make.conv(features, channels, (window,), strides=2, padding=1)
        layers[f'relu{i}'] = nnx.relu
        features = channels
    flat = flat_features(nn.Layers(layers), input_shape, channels)
    layers['flatten'] = nn.Flatten()
    layers['logits'] = make.linear(flat, num_classes)
    return Classifier(nn.Layers(layers), input_shape, num_classes)


def mlp(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    hidden: int = 100,
) -> Classifier:
    """Makes an MLP with two hidden layers, the second of them residual.

    Args:
        hidden: width of the hidden layers.
    """
    layers = {
        'flatten': nn.Flatten(),
        'dense1': make.linear(math.prod(input_shape), hidden),
        'relu1': nnx.relu,
        'block': nn.Residual({'dense2': make.linear(hidden, hidden), 'relu2': nnx.relu}),
        'logits': make.linear(hidden, num_classes),
    }
    return Classifier(nn.Layers(layers), input_shape, num_classes)


def logistic(make: LayerFactory, input_shape: Sequence[int], num_classes: int) -> Classifier:
    """Makes a multinomial logistic regression, which is one dense layer."""
    layers = {
        'flatten': nn.Flatten(),
        'logits': make.linear(math.prod(input_shape), num_classes),
    }
    return Classifier(nn.Layers(layers), input_shape, num_classes)

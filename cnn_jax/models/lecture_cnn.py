"""The lecture's CNN: convolution, non-linearity and pool, all twice, then an MLP.

Inputs are images of at least 4 x 4. The network is designed for 8 x 8 (digits) and 28 x 28 (MNIST,
Fashion-MNIST).
With the defaults and 10 classes:

    input         parameters    multiply-adds
    8 x 8 x 1         53,002        0.37 M
    28 x 28 x 1      421,642        4.24 M
"""

from collections.abc import Sequence

from flax import nnx

from cnn_jax import nn
from cnn_jax.models.base import Classifier, LayerFactory, flat_features


def lecture_cnn(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    features: Sequence[int] = (32, 64),
    window: int = 3,
    hidden: Sequence[int] = (128,),
) -> Classifier:
    """Makes the lecture's CNN.

    Args:
        features: output channels of each convolution, which ReLU and a 2 x 2 max pool follow.
        window: side of the convolutions' windows; the padding preserves the size.
        hidden: widths of the MLP's hidden layers.
    """
    layers = {}
    channels = input_shape[-1]
    for i, width in enumerate(features, start=1):
        layers[f'conv{i}'] = make.conv(channels, width, (window, window))
        layers[f'relu{i}'] = nnx.relu
        layers[f'pool{i}'] = make.max_pool((2, 2))
        channels = width
    flat = flat_features(nn.Layers(layers), input_shape, channels)
    layers['flatten'] = nn.Flatten()
    for i, width in enumerate(hidden, start=1):
        layers[f'dense{i}'] = make.linear(flat, width)
        layers[f'dense{i}_relu'] = nnx.relu
        flat = width
    layers['logits'] = make.linear(flat, num_classes)
    return Classifier(nn.Layers(layers), input_shape, num_classes)

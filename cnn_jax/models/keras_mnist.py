"""The network of the Keras example "Simple MNIST convnet" (F. Chollet, keras.io/examples/vision).

| input       | classes | parameters | MACs  |
|-------------|---------|------------|-------|
| 28 x 28 x 1 |      10 |     34,826 | 2.4 M | 34,826 in Keras's summary
"""

from collections.abc import Sequence

from flax import nnx

from cnn_jax import nn
from cnn_jax.models.base import Classifier, LayerFactory, flat_features


def keras_mnist(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    features: Sequence[int] = (32, 64),
    dropout: float = 0.5,
) -> Classifier:
    """Makes a CNN of unpadded 3 x 3 convolutions, ReLU, 2 x 2 max pools, dropout and a dense layer.

    Args:
        features: channel counts of the convolutions.
        dropout: rate before the dense layer.
    """
    glorot = nnx.initializers.glorot_uniform()  # Keras's default
    layers = {}
    channels = input_shape[-1]
    for i, width in enumerate(features, start=1):
        layers[f'conv{i}'] = make.conv(channels, width, (3, 3), padding='VALID', kernel_init=glorot)
        layers[f'relu{i}'] = nnx.relu
        layers[f'pool{i}'] = make.max_pool((2, 2))
        channels = width
    flat = flat_features(nn.Layers(layers), input_shape, channels)
    layers['flatten'] = nn.Flatten()
    layers['drop'] = make.dropout(dropout)
    layers['logits'] = make.linear(flat, num_classes, kernel_init=glorot)
    return Classifier(nn.Layers(layers), input_shape, num_classes)

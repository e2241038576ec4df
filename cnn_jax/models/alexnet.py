"""AlexNet in its form with one tower.

Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks",
arXiv:1404.5997: the network of Krizhevsky, Sutskever & Hinton 2012 with one tower instead of two.
The channels are those of torchvision's form, which has no local response normalisation. Layers are
named conv1, ..., conv5, fc6, fc7, fc8.

    | input         | classes | parameters | MACs   |
    |---------------|---------|------------|--------|
    | 224 x 224 x 3 |    1000 | 61,100,840 | 0.71 G | as stated by torchvision
"""

from collections.abc import Sequence

from flax import nnx

from cnn_jax import nn
from cnn_jax.models.base import Classifier, Counterpart, LayerFactory, choose_stem, flat_features
from cnn_jax.models.torchvision_names import numbered

# Features and window of each convolution after the first, and whether a pool follows.
CONVOLUTIONS = ((192, 5, True), (384, 3, False), (256, 3, False), (256, 3, True))

# He's normal for convolutions, which ReLU follows, and a small normal for dense layers.
CONV_INIT = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')
DENSE_INIT = nnx.initializers.normal(0.01)


def alexnet(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    stem: str | None = None,
    dropout: float = 0.5,
    width: float = 1.0,
) -> Classifier:
    """Makes AlexNet.

    Args:
        stem: 'large' (11 x 11 of stride 4, and 6 x 6 maps before the dense layers) or 'small'
            (5 x 5 of stride 1, and 3 x 3 maps); None means 'small' below 64 pixels, else 'large'.
        dropout: rate before the two hidden dense layers.
        width: factor that multiplies all hidden widths.
    """
    stem = choose_stem(stem, input_shape)
    window, strides, side = (11, 4, 6) if stem == 'large' else (5, 1, 3)
    channels = max(1, round(64 * width))
    layers = {
        'conv1': make.conv(
            input_shape[-1],
            channels,
            (window, window),
            strides=strides,
            padding=2,
            kernel_init=CONV_INIT,
        ),
        'relu1': nnx.relu,
        'pool1': make.max_pool((3, 3), 2),
    }
    for i, (features, window, pooled) in enumerate(CONVOLUTIONS, start=2):
        features = max(1, round(features * width))
        layers[f'conv{i}'] = make.conv(
            channels, features, (window, window), padding=window // 2, kernel_init=CONV_INIT
        )
        layers[f'relu{i}'] = nnx.relu
        if pooled:
            layers[f'pool{i}'] = make.max_pool((3, 3), 2)
        channels = features
    layers['avgpool'] = nn.AdaptiveAvgPool((side, side))
    flat = flat_features(nn.Layers(layers), input_shape, channels)
    layers['flatten'] = nn.Flatten()
    hidden = max(1, round(4096 * width))
    for name in ('6', '7'):
        layers[f'drop{name}'] = make.dropout(dropout)
        layers[f'fc{name}'] = make.linear(flat, hidden, kernel_init=DENSE_INIT)
        layers[f'relu{name}'] = nnx.relu
        flat = hidden
    layers['fc8'] = make.linear(hidden, num_classes, kernel_init=DENSE_INIT)
    theirs = Counterpart(torchvision_names) if stem == 'large' else None
    return Classifier(nn.Layers(layers), input_shape, num_classes, torchvision=theirs)


def torchvision_names(layers: Sequence[str]) -> dict[str, str]:
    """Maps the names of layers to torchvision's, without drop6: its features have another order."""
    return {name: theirs for name, theirs in numbered(layers).items() if name != 'drop6'}

"""VGG-11, -13, -16 and -19, with and without batch normalisation.

Simonyan & Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
arXiv:1409.1556, table 1 (configurations A, B, D, E). Layers are named as in the paper: conv1_1,
..., fc6, fc7, fc8.

Two heads:

  * 'dense', as in the paper: 7 x 7 features (averaged to that size if necessary), two hidden layers
    of 4096 with dropout, then the last dense layer;
  * 'pooled', customary for 32-pixel images: the mean of each feature map, then one dense layer.

Parameters and multiply-adds with 1000 classes at 224 x 224 x 3 ('dense'; as stated by
torchvision) and with 10 classes at 32 x 32 x 3 ('pooled'):

    |        | 224 px      | with BN     | MACs    | 32 px, with BN | MACs   |
    |--------|-------------|-------------|---------|----------------|--------|
    | VGG-11 | 132,863,336 | 132,868,840 |  7.61 G |      9,231,114 | 0.15 G |
    | VGG-13 | 133,047,848 | 133,053,736 | 11.31 G |      9,416,010 | 0.23 G |
    | VGG-16 | 138,357,544 | 138,365,992 | 15.47 G |     14,728,266 | 0.31 G |
    | VGG-19 | 143,667,240 | 143,678,248 | 19.63 G |     20,040,522 | 0.40 G |
"""

from collections.abc import Sequence

from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import Classifier, Counterpart, LayerFactory, flat_features, is_small
from cnn_jax.models.torchvision_names import numbered

# Number of convolutions before each of the five pools, by depth.
STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
FEATURES = (64, 128, 256, 512, 512)

# As in torchvision: He's normal for convolutions, which ReLU follows, and a small normal for dense
# layers.
CONV_INIT = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')
DENSE_INIT = nnx.initializers.normal(0.01)


def vgg(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    depth: int = 16,
    batch_norm: bool = False,
    head: str | None = None,
    dropout: float = 0.5,
    width: float = 1.0,
) -> Classifier:
    """Makes VGG.

    Args:
        depth: number of layers with weights: 11, 13, 16 or 19.
        batch_norm: whether batch normalisation follows each convolution.
        head: 'dense' or 'pooled'; None means 'pooled' below 64 pixels, else 'dense'.
        dropout: rate in the dense head.
        width: factor that multiplies all hidden widths.
    """
    if depth not in STAGES:
        raise UserError(f'depth={depth} must be one of {", ".join(map(str, STAGES))}')
    head = head or ('pooled' if is_small(input_shape) else 'dense')
    if head not in ('dense', 'pooled'):
        raise UserError(f"head={head!r} must be 'dense' or 'pooled'")
    layers = {}
    channels = input_shape[-1]
    for stage, (count, features) in enumerate(zip(STAGES[depth], FEATURES, strict=True), start=1):
        features = max(1, round(features * width))
        for i in range(1, count + 1):
            at = f'{stage}_{i}'
            layers[f'conv{at}'] = make.conv(
                channels, features, (3, 3), padding=1, kernel_init=CONV_INIT
            )
            if batch_norm:
                layers[f'bn{at}'] = make.batch_norm(features)
            layers[f'relu{at}'] = nnx.relu
            channels = features
        layers[f'pool{stage}'] = make.max_pool((2, 2))
    if head == 'pooled':
        layers['pool'] = nn.GlobalAvgPool()
    else:
        layers['avgpool'] = nn.AdaptiveAvgPool((7, 7))
        flat = flat_features(nn.Layers(layers), input_shape, channels)
        layers['flatten'] = nn.Flatten()
        hidden = max(1, round(4096 * width))
        for name in ('6', '7'):
            layers[f'fc{name}'] = make.linear(flat, hidden, kernel_init=DENSE_INIT)
            layers[f'relu{name}'] = nnx.relu
            layers[f'drop{name}'] = make.dropout(dropout)
            flat = hidden
        channels = hidden
    layers['fc8'] = make.linear(channels, num_classes, kernel_init=DENSE_INIT)
    theirs = Counterpart(numbered) if head == 'dense' else None
    return Classifier(nn.Layers(layers), input_shape, num_classes, torchvision=theirs)

"""Wide residual networks such as WRN-28-10.

Zagoruyko & Komodakis 2016, "Wide Residual Networks", arXiv:1605.07146. Blocks are pre-activated
(batch norm and ReLU before each convolution). Where the width changes, the shortcut is a 1 x 1
convolution of the activated input.

    |           | input       | classes | parameters | MACs   |
    |-----------|-------------|---------|------------|--------|
    | WRN-28-10 | 32 x 32 x 3 |      10 | 36,479,194 | 5.24 G | 36.5 M in the paper, table 4
    | WRN-16-4  | 32 x 32 x 3 |      10 |  2,748,890 | 0.39 G |
"""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import Classifier, LayerFactory

CONV_INIT = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def wide_resnet(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    depth: int = 28,
    widen: int = 10,
    dropout: float = 0.0,
) -> Classifier:
    """Makes WRN-depth-widen.

    Args:
        depth: 6 n + 4 for n blocks in each of three stages.
        widen: factor of the widths; the stages have 16, 32 and 64 times this many channels.
        dropout: rate between the two convolutions of a block.
    """
    if depth < 10 or (depth - 4) % 6:
        raise UserError(f'depth={depth} must be 6 n + 4: 10, 16, 22, 28, 40, ...')

    def conv(channels: int, features: int, window: int, strides: int = 1) -> nn.Conv:
        return make.conv(
            channels,
            features,
            (window, window),
            strides=strides,
            padding=window // 2,
            use_bias=False,
            kernel_init=CONV_INIT,
        )

    layers: dict[str, Any] = {'conv1': conv(input_shape[-1], 16, 3)}
    channels = 16
    for stage in (1, 2, 3):
        features = 16 * widen * 2 ** (stage - 1)
        blocks = {}
        for i in range((depth - 4) // 6):
            strides = 2 if stage > 1 and i == 0 else 1
            first = {'bn1': make.batch_norm(channels), 'relu1': nnx.relu}
            rest = {
                'conv1': conv(channels, features, 3, strides),
                'bn2': make.batch_norm(features),
                'relu2': nnx.relu,
            }
            if dropout:
                rest['drop'] = make.dropout(dropout)
            rest['conv2'] = conv(features, features, 3)
            if channels == features:
                blocks[f'block{i}'] = nn.Residual(first | rest)
            else:
                shortcut = nn.Layers({'conv': conv(channels, features, 1, strides)})
                blocks[f'block{i}'] = nn.Layers(first | {'residual': nn.Residual(rest, shortcut)})
            channels = features
        layers[f'layer{stage}'] = nn.Layers(blocks)
    layers['bn'] = make.batch_norm(channels)
    layers['relu'] = nnx.relu
    layers['pool'] = nn.GlobalAvgPool()
    layers['fc'] = make.linear(channels, num_classes)
    return Classifier(nn.Layers(layers), input_shape, num_classes)

"""A small CNN with batch norm and fewer than 100,000 parameters, for 28-pixel images.

Designed for this library, for the size class "2 Conv < 100K parameters" of Fashion-MNIST's table of
results: pairs of 3 x 3 convolutions with a max pool after each pair, one last convolution and
global average pooling.

    | input       | classes | parameters | MACs   |
    |-------------|---------|------------|--------|
    | 28 x 28 x 1 |      10 |     93,418 | 19.6 M |
"""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from cnn_jax import nn
from cnn_jax.models.base import Classifier, LayerFactory


def small_cnn(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    stages: Sequence[Sequence[int]] = ((32, 32), (64, 64), (48,)),
    dropout: float = 0.3,
) -> Classifier:
    """Makes a small CNN.

    Args:
        stages: channels of the convolutions of each stage; a 2 x 2 max pool separates stages.
        dropout: rate before the dense layer.
    """
    layers: dict[str, Any] = {}
    channels = input_shape[-1]
    for stage, widths in enumerate(stages, start=1):
        for i, width in enumerate(widths, start=1):
            layers[f'conv{stage}_{i}'] = make.conv(
                channels,
                width,
                (3, 3),
                use_bias=False,
                kernel_init=nnx.initializers.he_normal(),
            )
            layers[f'bn{stage}_{i}'] = make.batch_norm(width)
            layers[f'relu{stage}_{i}'] = nnx.relu
            channels = width
        if stage < len(stages):
            layers[f'pool{stage}'] = make.max_pool((2, 2))
    layers['pool'] = nn.GlobalAvgPool()
    layers['drop'] = make.dropout(dropout)
    layers['logits'] = make.linear(channels, num_classes)
    return Classifier(nn.Layers(layers), input_shape, num_classes)

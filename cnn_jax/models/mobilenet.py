"""MobileNet: depthwise separable convolutions.

Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", arXiv:1704.04861, table 1: a depthwise 3 x 3 convolution, then a 1 x 1
convolution that mixes channels, each with batch norm and ReLU.

    | input         | classes | parameters | MACs    |
    |---------------|---------|------------|---------|
    | 224 x 224 x 3 |    1000 |  4,231,976 | 568.7 M | 4.2 M, 569 M in the paper, table 4
    | 32 x 32 x 3   |      10 |  3,217,226 |  46.3 M | with the small stem
"""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from cnn_jax import nn
from cnn_jax.models.base import Classifier, LayerFactory, choose_stem
from cnn_jax.models.inverted_residual import conv_bn

# Output channels and stride of each depthwise separable block.
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


def mobilenet(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    width: float = 1.0,
    stem: str | None = None,
) -> Classifier:
    """Makes MobileNet (version 1).

    Args:
        width: factor that multiplies all channel counts (the paper's alpha).
        stem: 'large' (the first convolution has stride 2) or 'small' (stride 1); None means
            'small' below 64 pixels, else 'large'.
    """
    strides = 2 if choose_stem(stem, input_shape) == 'large' else 1
    channels = max(1, round(32 * width))
    layers: dict[str, Any] = {
        'stem': conv_bn(make, input_shape[-1], channels, 3, strides=strides, act=nnx.relu)
    }
    for i, (features, strides) in enumerate(BLOCKS, start=1):
        features = max(1, round(features * width))
        layers[f'block{i}'] = nn.Layers(
            {
                'depthwise': conv_bn(
                    make, channels, channels, 3, strides=strides, groups=channels, act=nnx.relu
                ),
                'pointwise': conv_bn(make, channels, features, 1, act=nnx.relu),
            }
        )
        channels = features
    layers['pool'] = nn.GlobalAvgPool()
    layers['fc'] = make.linear(channels, num_classes)
    return Classifier(nn.Layers(layers), input_shape, num_classes)

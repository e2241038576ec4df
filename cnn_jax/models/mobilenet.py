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
from cnn_jax.errors import UserError
from cnn_jax.models.base import Classifier, LayerFactory, is_small

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

CONV_INIT = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')


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
    stem = stem or ('small' if is_small(input_shape) else 'large')
    if stem not in ('large', 'small'):
        raise UserError(f"stem={stem!r} must be 'large' or 'small'")

    def conv_bn_relu(
        channels: int, features: int, window: int, strides: int, groups: int = 1
    ) -> dict[str, Any]:
        return {
            'conv': make.conv(
                channels,
                features,
                (window, window),
                strides=strides,
                padding=window // 2,
                use_bias=False,
                feature_group_count=groups,
                # in a depthwise convolution, He's fan-out is the window size alone
                kernel_init=CONV_INIT
                if groups == 1
                else nnx.initializers.normal((2 / window**2) ** 0.5),
            ),
            'bn': make.batch_norm(features),
            'relu': nnx.relu,
        }

    channels = max(1, round(32 * width))
    stem_strides = 2 if stem == 'large' else 1
    layers: dict[str, Any] = {
        'stem': nn.Layers(conv_bn_relu(input_shape[-1], channels, 3, stem_strides))
    }
    for i, (features, strides) in enumerate(BLOCKS, start=1):
        features = max(1, round(features * width))
        layers[f'block{i}'] = nn.Layers(
            {
                'depthwise': nn.Layers(conv_bn_relu(channels, channels, 3, strides, channels)),
                'pointwise': nn.Layers(conv_bn_relu(channels, features, 1, 1)),
            }
        )
        channels = features
    layers['pool'] = nn.GlobalAvgPool()
    layers['fc'] = make.linear(channels, num_classes)
    return Classifier(nn.Layers(layers), input_shape, num_classes)

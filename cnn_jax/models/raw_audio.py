"""M3, M5, M11 and M18: convolutions over raw waveforms.

Dai et al. 2016, "Very Deep Convolutional Neural Networks for Raw Waveforms", arXiv:1610.00087,
table 1. The first convolution has a window of 80 samples and stride 4, the others a window of 3.
Batch norm follows every convolution, a max pool of window 4 follows each of the first four stages,
and the mean over time follows the last. Designed for inputs of 32,000 samples (4 s at 8 kHz); the
minimum is 1,021 samples (M3: 61).

With one channel and 10 classes, 32,000 samples:

    |     | parameters | in the paper | MACs    |
    |-----|------------|--------------|---------|
    | M3  |    221,194 |        0.2 M | 557.1 M |
    | M5  |    559,114 |        0.5 M | 278.5 M |
    | M11 |  1,786,442 |        1.8 M | 225.0 M |
    | M18 |  3,683,786 |        3.7 M | 396.6 M |

The form of torchaudio's tutorial on Speech Commands (26,915 parameters with 35 classes) is `m5`
with `features=(32, 32, 64, 64), strides=16`.
"""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import Classifier, LayerFactory

# Widths by depth; one tuple per stage.
STAGES = {
    3: ((256,), (256,)),
    5: ((128,), (128,), (256,), (512,)),
    11: ((64,), (64,) * 2, (128,) * 2, (256,) * 3, (512,) * 2),
    18: ((64,), (64,) * 4, (128,) * 4, (256,) * 4, (512,) * 4),
}


def raw_audio(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    depth: int = 5,
    features: Sequence[int] | None = None,
    window: int = 80,
    strides: int = 4,
) -> Classifier:
    """Makes a convolutional network over time.

    Args:
        depth: number of layers with weights: 3, 5, 11 or 18.
        features: channels of each convolution; None means the paper's.
        window, strides: window and strides of the first convolution.
    """
    if depth not in STAGES:
        raise UserError(f'depth={depth} must be one of {", ".join(map(str, STAGES))}')
    stages = STAGES[depth]
    if features is not None:
        if len(features) != sum(map(len, stages)):
            raise UserError(
                f'features={tuple(features)} must have {sum(map(len, stages))} widths for '
                f'depth={depth}'
            )
        widths = iter(features)
        stages = tuple(tuple(next(widths) for _ in stage) for stage in stages)
    layers: dict[str, Any] = {}
    channels, number = input_shape[-1], 0
    for stage, widths in enumerate(stages, start=1):
        for width in widths:
            number += 1
            first = number == 1
            layers[f'conv{number}'] = make.conv(
                channels,
                width,
                (window if first else 3,),
                strides=strides if first else 1,
                kernel_init=nnx.initializers.glorot_uniform(),
            )
            layers[f'bn{number}'] = make.batch_norm(width)
            layers[f'relu{number}'] = nnx.relu
            channels = width
        if stage <= 4:
            layers[f'pool{stage}'] = make.max_pool((4,))
    layers['pool'] = nn.GlobalAvgPool()
    layers['fc'] = make.linear(channels, num_classes)
    return Classifier(nn.Layers(layers), input_shape, num_classes)

"""Network in Network.

Lin, Chen & Yan 2013, "Network In Network", arXiv:1312.4400. Two 1 x 1 convolutions follow every
convolution and act as a small MLP applied at every position. The last one has one channel per
class, whose mean is the logit. The widths are those of the authors' model for CIFAR-10.

    | input       | classes | parameters | MACs    |
    |-------------|---------|------------|---------|
    | 32 x 32 x 3 |      10 |    966,986 | 222.5 M |
"""

from collections.abc import Sequence

from flax import nnx

from cnn_jax import nn
from cnn_jax.models.base import Classifier, LayerFactory


def nin(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    dropout: float = 0.5,
) -> Classifier:
    """Makes Network in Network.

    Args:
        dropout: rate after the first and the second pool.
    """
    stages = [
        # window of the first convolution, widths of all three
        (5, (192, 160, 96)),
        (5, (192, 192, 192)),
        (3, (192, 192, num_classes)),
    ]
    layers = {}
    channels = input_shape[-1]
    for stage, (window, widths) in enumerate(stages, start=1):
        for i, features in enumerate(widths):
            name = 'conv' if i == 0 else f'mlp{i}_'
            side = window if i == 0 else 1
            layers[f'{name}{stage}'] = make.conv(
                channels,
                features,
                (side, side),
                padding=side // 2,
                kernel_init=nnx.initializers.he_normal(),
            )
            layers[f'{name}{stage}_relu'] = nnx.relu
            channels = features
        if stage < len(stages):
            pool = make.max_pool if stage == 1 else make.avg_pool
            layers[f'pool{stage}'] = pool((3, 3), 2, ceil_mode=True)
            layers[f'drop{stage}'] = make.dropout(dropout)
    layers['logits'] = nn.GlobalAvgPool()
    return Classifier(nn.Layers(layers), input_shape, num_classes)

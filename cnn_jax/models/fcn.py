"""FCN on ResNet-18, -34 and -50, for semantic segmentation.

Long, Shelhamer & Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation",
arXiv:1411.4038: a classifier without its pool and dense layer, a convolutional head, and upsampling
to the size of the image. The form is torchvision's `fcn_resnet50` without the auxiliary head: the
last two stages are dilated instead of strided (Yu & Koltun 2016, arXiv:1511.07122), so that the
features have 1/8 of the image's height and width, and the logits are upsampled bilinearly.

torchvision has no dilated ResNet-18 and -34. Here both 3 x 3 convolutions of their blocks are
dilated like the one of a bottleneck block.

    | model        | input         | classes | parameters |
    |--------------|---------------|---------|------------|
    | fcn_resnet50 | 520 x 520 x 3 |      21 | 32,957,013 | + 2,365,205 with the auxiliary head
    | fcn_resnet18 | 520 x 520 x 3 |      21 | 11,769,301 |
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax import nn
from cnn_jax.models import resnet
from cnn_jax.models.base import Chain, Counterpart, LayerFactory
from cnn_jax.models.segmenter import Segmenter
from cnn_jax.models.torchvision_names import positions


class FCN(Chain, Segmenter):
    """A chain of layers whose logits are upsampled to the size of the image; see `Segmenter`."""

    def __call__(
        self, x: jax.Array, *, intermediates: nn.layers.Intermediates | None = None
    ) -> jax.Array:
        self.check_input(x)
        coarse = self.layers(x, intermediates).astype(jnp.float32)
        # Corners are not aligned, as in torch.nn.functional.interpolate's default.
        logits = jax.image.resize(coarse, (*x.shape[:3], coarse.shape[-1]), 'bilinear')
        if intermediates is not None:
            intermediates['upsampled'] = logits
        return logits


def fcn(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    depth: int = 50,
    stem: str | None = None,
    width: int = 64,
    dropout: float = 0.1,
) -> FCN:
    """Makes FCN.

    Args:
        depth, stem, width: see `resnet.resnet`. With the small stem the features have half of the
            image's height and width.
        dropout: rate of the dropout before the last convolution.
    """
    whole = resnet.resnet(make, input_shape, num_classes, depth=depth, stem=stem, width=width)
    classifier = whole.layers
    channels = classifier.fc.in_features
    layers = {name: layer for name, layer in classifier.items() if name not in ('pool', 'fc')}
    dilate(layers['layer3'], 1)
    dilate(layers['layer4'], 2)
    inner = channels // 4
    layers['classifier'] = nn.Layers(
        {
            'conv': make.conv(
                channels,
                inner,
                (3, 3),
                padding=1,
                use_bias=False,
                kernel_init=resnet.CONV_INIT,
            ),
            'bn': make.batch_norm(inner),
            'relu': nnx.relu,
            'dropout': make.dropout(dropout),
            'logits': make.conv(inner, num_classes, (1, 1)),
        }
    )
    is_theirs = whole.torchvision is not None and resnet.STAGES[depth][1]
    theirs = Counterpart(torchvision_names, unused=('aux_classifier.',)) if is_theirs else None
    return FCN(nn.Layers(layers), input_shape, num_classes, torchvision=theirs)


def torchvision_names(layers: Sequence[str]) -> dict[str, str]:
    """Maps the names of layers to torchvision's: a ResNet under `backbone`, and a numbered head."""
    head = [name for name in layers if name.partition('.')[0] == 'classifier']
    backbone = resnet.torchvision_names([name for name in layers if name not in head])
    names = {name: f'backbone.{theirs}' for name, theirs in backbone.items()}
    at = positions(head)
    return names | {name: f'classifier.{at[name]}' if '.' in name else name for name in head}


def dilate(stage: nn.Layers, before: int) -> None:
    """Turns the strides of a stage of ResNet into dilation, in place.

    The stage then keeps the size of its input, and its units keep their receptive fields. The first
    block has the dilation `before` of the stage before, the others twice as much.
    """
    for i, (_, block) in enumerate(stage.items()):
        for _, conv in nnx.iter_graph(block):
            if not isinstance(conv, nn.Conv):
                continue
            conv.strides = 1
            if max(conv.kernel_size) > 1:
                conv.kernel_dilation = conv.padding = before if i == 0 else 2 * before

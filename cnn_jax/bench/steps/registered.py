"""Describes registered models as networks, to time their training steps beside PyTorch's.

PyTorch's side is torchvision's model of the same name if there is one, and otherwise the network
of `cnn_jax.bench.parity.torch_networks`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flax import nnx

from cnn_jax import models
from cnn_jax.bench.steps.networks import Network
from cnn_jax.errors import UserError
from cnn_jax.training.state import FunctionalModel

SIDES = ('native', 'torch')
# Of ImageNet, and of Pascal VOC with the background.
CLASSES = {'classification': 1000, 'segmentation': 21}
# Models that torchvision does not have, or not with these layers.
FUNCTIONS = ('se_resnet50', 'mobilenet', 'unet', 'fcn_resnet18', 'fcn_resnet50', 'airbench')
DEFAULT = (
    *('alexnet', 'vgg16', 'googlenet', 'resnet18', 'resnet50', 'resnet101', 'resnet152'),
    *('resnext50_32x4d', 'densenet121', 'mobilenet_v2', 'mobilenet_v3_small'),
    *('mobilenet_v3_large', 'efficientnet_b0', 'convnext_tiny'),
    *(name for name in FUNCTIONS if name != 'airbench'),  # which is for images of 32 pixels
)


class Case(NamedTuple):
    """A registered model at one size of images.

    Attributes:
        network: what is timed.
        model: the abstract model.
    """

    network: Network
    model: nnx.Module


def case(name: str, *, batch_size: int, image_size: int, num_classes: int = 0) -> Case:
    """Describes a model on square images of 3 channels.

    `num_classes`: by default those of ImageNet or, for segmentation, of Pascal VOC.

    Raises:
        ValueError: there is no such model, it has no counterpart in PyTorch at this size, or the
            images are too small.
    """
    task = models.MODELS.lookup(name).task
    classes = CLASSES.get(task, 0)
    if not classes:
        raise UserError(f'model {name} is for the task {task}; must be {" or ".join(CLASSES)}')
    classes = num_classes or classes
    shape = (image_size, image_size, 3)
    net = FunctionalModel(
        lambda rngs: models.create(name, input_shape=shape, num_classes=classes, rngs=rngs)
    )
    shapes = None
    if name in FUNCTIONS:
        shapes = {at: leaf.shape for at, leaf in (net.params | net.model_state).items()}
    elif getattr(net.model, 'torchvision', None) is None:
        raise UserError(
            f'model {name} has no counterpart in PyTorch for images of {image_size} pixels'
        )
    layers = [('model', name, classes, shapes)]
    network = Network(
        f'{name}, {image_size}x{image_size}', (batch_size, *shape), classes, layers,
        is_dense=task == 'segmentation',
    )  # fmt: skip
    return Case(network, net.model)


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats a table of models in Markdown.

    Args:
        rows: for every model its `name`, `parameters`, `macs` for one example, and milliseconds per
            step of both sides, `native` and `torch`.
    """
    lines = [
        '| model | parameters | MACs | cnn_jax, ms | PyTorch, ms | PyTorch / cnn_jax |',
        '|---|--:|--:|--:|--:|--:|',
    ]
    for row in rows:
        cells = (
            f'`{row["name"]}`',
            f'{row["parameters"]:,}',
            f'{row["macs"] / 1e9:.2f} G',
            *(f'{row[side]:,.0f}' for side in SIDES),
            f'{row["torch"] / row["native"]:.2f}',
        )
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)

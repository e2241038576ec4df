"""Registered models in PyTorch: those of torchvision, and those of `parity.torch_networks`.

Loads neither JAX nor this package, as `torch_side` requires.
"""

import pathlib
import sys

import torch
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'parity'))

from torch_networks import NETWORKS, to_torch  # noqa: E402
from weights import random_weights  # noqa: E402

# Weights that are not trained: batch statistics, and the first layer of airbench.
BUFFERS = ('/mean', '/var', 'whiten/kernel')
# Without its auxiliary classifiers, and without an initialisation that takes seconds.
OPTIONS = {'googlenet': {'aux_logits': False, 'init_weights': False}}


def twin(name, num_classes, shapes):
    """Returns the PyTorch module of a registered model, with random weights.

    Args:
        name: name of the model.
        num_classes: number of logits.
        shapes: None for a model of torchvision, otherwise the shape of every parameter and batch
            statistic by name.
    """
    if shapes is not None:
        return Twin(name, shapes)
    options = {'weights': None, 'num_classes': num_classes} | OPTIONS.get(name, {})
    return _torchvision().models.get_model(name, **options)


class Twin(nn.Module):
    """A network of `torch_networks`, which is a function of named parameters, as a module."""

    def __init__(self, name, shapes):
        super().__init__()
        self.function = NETWORKS[name]
        for at, array in random_weights(shapes).items():
            value = torch.from_numpy(to_torch(at, array))
            if at.endswith(BUFFERS):
                self.register_buffer(at, value)
            else:
                self.register_parameter(at, nn.Parameter(value))

    def forward(self, x):
        values = dict(self.named_parameters()) | dict(self.named_buffers())
        return self.function(values | {'training': self.training}, x)


def _torchvision():
    """Imports torchvision, with or without its compiled operations.

    These do not load if torchvision was built for CUDA, as PyPI's is for Linux, and PyTorch for
    CPUs. The models do not use them, but the import requires two to be defined.
    """
    try:
        import torchvision
    except RuntimeError:
        for name in ('nms', 'qnms'):
            schema = '(Tensor boxes, Tensor scores, float threshold) -> Tensor'
            torch.library.define(f'torchvision::{name}', schema)
        import torchvision
    return torchvision

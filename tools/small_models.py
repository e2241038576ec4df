"""Small models with random weights, for tests and tables."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from cnn_jax import models

IMAGES, THIN = {'input_shape': (32, 32, 3)}, {'input_shape': (32, 32, 3), 'width': 0.1}
DIGITS = {'input_shape': (28, 28, 1)}
SOUND = {'input_shape': (2000, 1)}
SIGNAL = {'input_shape': (40, 1)}

# The longest matching beginning of a model's name counts.
_BY_BEGINNING: dict[str, dict[str, Any]] = {
    'lecture_cnn': {'input_shape': (8, 8, 1)},
    'lenet5': DIGITS,
    'lenet5_1998': IMAGES | {'input_shape': (32, 32, 1)},
    'keras_mnist': DIGITS,
    'small_cnn': DIGITS,
    'vgg': THIN,
    'nin': IMAGES,
    'alexnet': THIN,
    'googlenet': THIN,
    'resnet': IMAGES | {'width': 8},
    'resnext': IMAGES | {'groups': 4, 'width': 8},
    'se_resnet': IMAGES | {'width': 8, 'reduction': 4},
    'densenet': IMAGES | {'growth': 4},
    'cifar_resnet': IMAGES,
    'wrn28': IMAGES | {'widen': 1},
    'wrn16': IMAGES | {'widen': 1},
    'mobilenet': THIN,
    'efficientnet': THIN,
    'convnext': IMAGES | {'width': 8},
    'airbench': IMAGES | {'widths': (8, 16, 16)},
    'm3': SOUND,
    'm5': SOUND,
    'm11': SOUND,
    'm18': SOUND,
    'mnist1d_cnn': SIGNAL,
    'mlp': SIGNAL,
    'logistic': SIGNAL,
    'textcnn': {'input_shape': (20,), 'vocabulary_size': 50},
    'unet': IMAGES | {'width': 4, 'batch_norm': True},
    'fcn_resnet': {'input_shape': (64, 64, 3), 'width': 8},
    'autoencoder': DIGITS,
    'vae': DIGITS,
    'dcgan': DIGITS | {'width': 8},
}


def arguments(name: str) -> dict[str, Any]:
    """Returns arguments of `models.create` for a small model, but for `num_classes` and `rngs`."""
    beginning = max((b for b in _BY_BEGINNING if name.startswith(b)), key=len)
    return _BY_BEGINNING[beginning]


def all_arguments() -> dict[str, dict[str, Any]]:
    """Returns `arguments` of every registered model by name."""
    return {name: arguments(name) for name in models.names()}


def arrays(shapes, chance):
    """Random values that keep the variance near 1, with statistics unlike those of new layers."""
    spread = {
        'var': lambda s: chance.uniform(0.5, 2, s.shape),
        'scale': lambda s: chance.uniform(0.5, 1.5, s.shape),
        'kernel': lambda s: chance.normal(size=s.shape) * np.sqrt(2 / np.prod(s.shape[:-1])),
    }
    small = lambda s: 0.2 * chance.normal(size=s.shape)  # noqa: E731
    return {
        name: jnp.asarray(spread.get(name.rpartition('/')[2], small)(s), s.dtype)
        for name, s in shapes.items()
    }

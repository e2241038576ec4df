"""DCGAN: a generator of transposed convolutions and a convolutional discriminator.

Radford, Metz & Chintala 2015, "Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks", arXiv:1511.06434, with the layers of PyTorch's DCGAN tutorial
(4 x 4 windows, stride 2, no biases, weights initialised from a normal distribution with standard
deviation 0.02). The image side is halved while it is even and at least 8: 64 -> 4, 32 -> 4,
28 -> 7.

    | model               | image       | latent | parameters | MACs    |
    |---------------------|-------------|--------|------------|---------|
    | dcgan_generator     | 64 x 64 x 3 |    100 |  3,576,704 | 104.6 M | as in the tutorial
    | dcgan_discriminator | 64 x 64 x 3 |        |  2,765,568 | 103.8 M |
    | dcgan_generator     | 28 x 28 x 1 |    100 |    759,680 |   7.3 M |
    | dcgan_discriminator | 28 x 28 x 1 |        |    138,624 |   6.6 M |
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import Classifier, LayerFactory, Model

INIT = nnx.initializers.normal(0.02)


class Generator(Model):
    """`model(noise)` maps standard normal noise (N, latent) to float32 images in [-1, 1].

    The images have shape (N, *image_shape). `input_shape` is (latent,), and `image_shape` is the
    shape of one image.
    """

    task = 'generator'

    def __init__(self, layers: nn.Layers, latent: int, image_shape: Sequence[int]):
        super().__init__((latent,), 0)
        self.kind = 'image'
        self.image_shape = tuple(image_shape)
        self.layers = layers

    def __call__(
        self, z: jax.Array, *, intermediates: nn.layers.Intermediates | None = None
    ) -> jax.Array:
        self.check_input(z)
        x = z.reshape(z.shape[0], *(1,) * (len(self.image_shape) - 1), z.shape[-1])
        return self.layers(x, intermediates).astype(jnp.float32)


class Discriminator(Classifier):
    """`model(images)` maps images in [-1, 1] to float32 logits (N, 1); above 0 means real."""

    task = 'discriminator'


def generator(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int = 0,
    *,
    latent: int = 100,
    width: int = 64,
) -> Generator:
    """Makes the generator of images of shape `input_shape`; `num_classes` is not used.

    Args:
        latent: length of the noise vector.
        width: channels before the last layer; each earlier layer has twice as many as the next.
    """
    base, doublings = _halved(input_shape)
    layers: dict[str, Any] = {}
    channels = latent
    for i in range(doublings):
        features = width * 2 ** (doublings - 1 - i)
        layers[f'deconv{i}'] = (
            make.conv_transpose(latent, features, base, padding=0, **_PLAIN)
            if i == 0
            else make.conv_transpose(channels, features, (4, 4), strides=2, padding=1, **_PLAIN)
        )
        layers[f'bn{i}'] = make.batch_norm(features, scale_init=_scale_init)
        layers[f'relu{i}'] = nnx.relu
        channels = features
    layers['image'] = make.conv_transpose(
        channels, input_shape[-1], (4, 4), strides=2, padding=1, **_PLAIN
    )
    layers['tanh'] = nnx.tanh
    return Generator(nn.Layers(layers), latent, input_shape)


def discriminator(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int = 1,
    *,
    width: int = 64,
) -> Discriminator:
    """Makes the discriminator of images of shape `input_shape`; `num_classes` is not used.

    Args:
        width: channels of the first layer; each later layer has twice as many as the one before.
    """
    base, halvings = _halved(input_shape)
    layers: dict[str, Any] = {}
    channels = input_shape[-1]
    for i in range(halvings):
        features = width * 2**i
        layers[f'conv{i}'] = make.conv(channels, features, (4, 4), strides=2, padding=1, **_PLAIN)
        if i > 0:
            layers[f'bn{i}'] = make.batch_norm(features, scale_init=_scale_init)
        layers[f'leaky{i}'] = _leaky_relu
        channels = features
    layers['judge'] = make.conv(channels, 1, base, padding=0, **_PLAIN)
    layers['flatten'] = nn.Flatten()
    return Discriminator(nn.Layers(layers), input_shape, 1)


_PLAIN = {'use_bias': False, 'kernel_init': INIT}


def _halved(input_shape: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Returns the image size after repeated halving, and the number of halvings."""
    size, count = tuple(input_shape[:-1]), 0
    while all(side % 2 == 0 and side >= 8 for side in size):
        size, count = tuple(side // 2 for side in size), count + 1
    if count == 0:
        raise UserError(
            f'input_shape={tuple(input_shape)}: height and width must be even and at least 8'
        )
    return size, count


def _scale_init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    return 1 + 0.02 * jax.random.normal(key, tuple(shape), dtype)


def _leaky_relu(x: jax.Array) -> jax.Array:
    return nnx.leaky_relu(x, 0.2)

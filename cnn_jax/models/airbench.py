"""The network of CIFAR-10 airbench, which is designed to train in seconds.

Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, section 3.1 and
airbench94. A 2 x 2 convolution with fixed weights whitens image patches. Three groups of two 3 x 3
convolutions, initialised as the identity, follow. The network uses batch norm without scale and
GELU, and divides the logits by 9.

    | input       | classes | trained   | fixed | MACs    |
    |-------------|---------|-----------|-------|---------|
    | 32 x 32 x 3 |      10 | 1,971,352 |   288 | 118.2 M | 1.97 M in total in the paper

The author reports 0.36 PFLOP for a full training run (9.9 epochs of 48 batches of 1024).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax import nn
from cnn_jax.models.base import Classifier, LayerFactory, flat_features


class Fixed(nnx.Variable):
    """Weights that are set once and not trained. Not an `nnx.Param`, so optimisers ignore them."""


class Scale(nnx.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float):
        self.factor = factor

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.factor


def airbench(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    widths: Sequence[int] = (64, 256, 256),
    logit_scale: float = 1 / 9,
) -> Classifier:
    """Makes the airbench94 network.

    The weights of `model.layers.whiten` are random until they are set from images. Training does
    this before the first step (see `whitening`).

    Args:
        widths: channel counts of the three groups.
        logit_scale: factor that multiplies the logits.
    """
    channels = 2 * 4 * input_shape[-1]
    whiten = make.conv(input_shape[-1], channels, (2, 2), padding=0, bias_init=_zeros)
    whiten.kernel = Fixed(whiten.kernel[...])
    layers: dict[str, Any] = {'whiten': whiten, 'gelu': _gelu}
    for i, width in enumerate(widths, start=1):

        def conv(features_in: int, features_out: int) -> nn.Conv:
            return make.conv(
                features_in, features_out, (3, 3), use_bias=False, kernel_init=identity_init
            )

        def norm(features: int) -> nnx.BatchNorm:
            return make.batch_norm(features, momentum=0.6, epsilon=1e-12, use_scale=False)

        layers[f'group{i}'] = nn.Layers(
            {
                'conv1': conv(channels, width),
                'pool': make.max_pool((2, 2)),
                'norm1': norm(width),
                'gelu1': _gelu,
                'conv2': conv(width, width),
                'norm2': norm(width),
                'gelu2': _gelu,
            }
        )
        channels = width
    layers['pool'] = make.max_pool((3, 3))
    layers['flatten'] = nn.Flatten()
    flat = flat_features(nn.Layers(dict(list(layers.items())[:-1])), input_shape, channels)
    layers['fc'] = make.linear(flat, num_classes, use_bias=False, kernel_init=_torch_uniform)
    layers['scale'] = Scale(logit_scale)
    return Classifier(nn.Layers(layers), input_shape, num_classes)


def whitening(images: jax.Array) -> dict[str, jax.Array]:
    """Returns the fixed weights computed from these training images, by name."""
    return {'layers/whiten/kernel': whitening_kernel(images)}


def whitening_kernel(images: jax.Array, epsilon: float = 5e-4) -> jax.Array:
    """Computes 2 x 2 kernels whose results on `images` are uncorrelated and have variance 1.

    The first half of the output channels are the eigenvectors of the patches' covariance, largest
    eigenvalue first, each divided by sqrt(eigenvalue + epsilon). The second half are their
    negatives.

    Args:
        images: (N, height, width, channels), normalised as in training; the author uses 5000
            images.
        epsilon: added to the eigenvalues.

    Returns:
        (2, 2, channels, 8 * channels), float32.
    """
    channels = images.shape[-1]
    corners = [images[:, i : i - 1 or None, j : j - 1 or None] for i in (0, 1) for j in (0, 1)]
    patches = jnp.stack(corners, axis=-2).reshape(-1, 4 * channels).astype(jnp.float32)
    values, vectors = jnp.linalg.eigh(patches.T @ patches / len(patches))
    vectors = (vectors / jnp.sqrt(values + epsilon))[:, ::-1]
    return jnp.concatenate([vectors, -vectors], axis=1).reshape(2, 2, channels, 8 * channels)


def identity_init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Initialises the first `in` output channels to the identity, others as PyTorch's default."""
    kernel = _torch_uniform(key, shape, dtype)
    *window, features, _ = shape
    centre = tuple((side - 1) // 2 for side in window)
    identity = jnp.zeros((*window, features, features), dtype).at[centre].set(jnp.eye(features))
    return kernel.at[..., :features].set(identity[..., : shape[-1]])


def _gelu(x: jax.Array) -> jax.Array:
    return nnx.gelu(x, approximate=False)


_zeros = nnx.initializers.zeros_init()
_torch_uniform = nnx.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')

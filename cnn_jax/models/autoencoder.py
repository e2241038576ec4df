"""Convolutional autoencoder and variational autoencoder.

Kingma & Welling 2013, "Auto-Encoding Variational Bayes", arXiv:1312.6114, with the layers of the
Keras example "Variational AutoEncoder" (F. Chollet, keras.io/examples/generative/vae): two strided
convolutions in the encoder, two transposed convolutions in the decoder.

    | model       | input       | latent | encoder | decoder | MACs  |
    |-------------|-------------|--------|---------|---------|-------|
    | vae         | 28 x 28 x 1 |      2 |  69,076 |  65,089 | 6.7 M | as in Keras's own summary
    | autoencoder | 28 x 28 x 1 |      2 |  69,042 |  65,089 | 6.7 M |

Images are in [0, 1]. The decoder returns logits, whose sigmoid is the image. For the VAE this is
the mean of each pixel under the likelihood: the probability that it is on, or the mean of a normal
distribution.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax import nn
from cnn_jax.errors import UserError
from cnn_jax.models.base import LayerFactory, Model

LOG_VARIANCE = -3.0  # initial; images in [0, 1] vary by about exp(-2)


class Autoencoder(Model):
    """`model(images)` returns float32 logits of the reconstruction, in the images' shape."""

    task = 'autoencoder'

    def __init__(self, encoder: nn.Layers, decoder: nn.Layers, input_shape: Sequence[int]):
        super().__init__(input_shape, 0)
        self.encoder = encoder
        self.decoder = decoder

    def encode(
        self, x: jax.Array, intermediates: nn.layers.Intermediates | None = None
    ) -> jax.Array:
        """Maps images (N, *input_shape) in [0, 1] to codes (N, latent), float32."""
        self.check_input(x)
        return self.encoder(x, nn.layers.within(intermediates, 'encoder')).astype(jnp.float32)

    def decode(
        self, z: jax.Array, intermediates: nn.layers.Intermediates | None = None
    ) -> jax.Array:
        """Maps codes (N, latent) to logits (N, *input_shape), float32."""
        return self.decoder(z, nn.layers.within(intermediates, 'decoder')).astype(jnp.float32)

    def __call__(
        self, x: jax.Array, *, intermediates: nn.layers.Intermediates | None = None
    ) -> jax.Array:
        return self.decode(self.encode(x, intermediates), intermediates)

    def loss_terms(self, x: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        """Returns the terms whose sum is the loss, in nats, each of shape (N,).

        Args:
            x: images in [0, 1], taken as probabilities that a pixel is on.
            key: random key, unused if the loss needs no samples.

        Returns:
            reconstruction: binary cross-entropy, summed over pixels.
        """
        del key
        return {'reconstruction': _cross_entropy(self(x), x)}


class VAE(Autoencoder):
    """Variational autoencoder, whose encoder returns a normal distribution over codes.

    `encode` returns the means, and `model(images)` reconstructs from them. `distribution` returns
    means and log variances. `negative_elbo` returns the two terms of the loss, and `loss_terms`
    returns them by name.

    Attributes:
        log_variance: the log variance of normal pixels, one learned scalar (the sigma-VAE of Rybkin
            et al. 2021, arXiv:2006.13202, section 4); None for pixels that are on or off.
    """

    def __init__(
        self,
        encoder: nn.Layers,
        decoder: nn.Layers,
        input_shape: Sequence[int],
        likelihood: str = 'bernoulli',
    ):
        super().__init__(encoder, decoder, input_shape)
        normal = likelihood == 'normal'
        self.log_variance = nnx.Param(jnp.full((), LOG_VARIANCE)) if normal else None

    def distribution(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps images to mean and log variance of their codes, each (N, latent), float32."""
        both = super().encode(x)
        return tuple(jnp.split(both, 2, axis=-1))

    def encode(
        self, x: jax.Array, intermediates: nn.layers.Intermediates | None = None
    ) -> jax.Array:
        """Maps images to the means of their codes, (N, latent), float32."""
        return jnp.split(super().encode(x, intermediates), 2, axis=-1)[0]

    def negative_elbo(self, x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns two terms whose sum estimates an upper bound of -log p(x), in nats.

        The estimate uses one sample of the code (section 2.3 of the paper).

        Args:
            x: images in [0, 1]; of a Bernoulli likelihood, the probabilities that a pixel is on.
            key: random key for the sample.

        Returns:
            reconstruction (N,): binary cross-entropy, or negative log density of normal pixels,
            summed over pixels; and divergence (N,): the KL divergence of the codes' distribution
            from the standard normal (appendix B of the paper).
        """
        mean, log_variance = self.distribution(x)
        noise = jax.random.normal(key, mean.shape)
        logits = self.decode(mean + jnp.exp(log_variance / 2) * noise)
        divergence = 0.5 * (jnp.exp(log_variance) + mean**2 - 1 - log_variance)
        if self.log_variance is None:
            return _cross_entropy(logits, x), divergence.sum(-1)
        log_variance = self.log_variance[...]
        error = (x - nnx.sigmoid(logits)) ** 2 * jnp.exp(-log_variance)
        reconstruction = 0.5 * (error + log_variance + jnp.log(2 * jnp.pi)).sum(range(1, x.ndim))
        return reconstruction, divergence.sum(-1)

    def loss_terms(self, x: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        reconstruction, divergence = self.negative_elbo(x, key)
        return {'reconstruction': reconstruction, 'divergence': divergence}


def _cross_entropy(logits: jax.Array, x: jax.Array) -> jax.Array:
    return (nnx.softplus(logits) - x * logits).sum(range(1, x.ndim))


def autoencoder(
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int = 0,
    *,
    variational: bool = False,
    latent: int = 2,
    hidden: int = 16,
    features: Sequence[int] = (32, 64),
    likelihood: str = 'bernoulli',
) -> Autoencoder:
    """Makes a convolutional autoencoder; `num_classes` is not used.

    Args:
        variational: whether to make a VAE.
        latent: length of a code.
        hidden: width of the dense layer before the code.
        features: channel counts of the strided convolutions, starting at the image.
        likelihood: of the pixels, for a VAE: 'bernoulli', or 'normal' with one learned variance.
    """
    known = ('bernoulli', 'normal') if variational else ('bernoulli',)
    if likelihood not in known:
        raise UserError(f'likelihood={likelihood!r}: must be {" or ".join(known)}')
    unit = 2 ** len(features)
    if any(side % unit for side in input_shape[:-1]):
        raise UserError(
            f'input_shape={tuple(input_shape)}: height and width must be multiples of {unit}'
        )
    encoder: dict[str, Any] = {}
    channels = input_shape[-1]
    for i, width in enumerate(features, start=1):
        encoder[f'conv{i}'] = make.conv(channels, width, (3, 3), strides=2)
        encoder[f'relu{i}'] = nnx.relu
        channels = width
    size = nn.Layers(encoder).output_size(input_shape[:-1])
    flat = size[0] * size[1] * channels
    encoder['flatten'] = nn.Flatten()
    encoder['dense'] = make.linear(flat, hidden)
    encoder['dense_relu'] = nnx.relu
    encoder['code'] = make.linear(hidden, 2 * latent if variational else latent)

    decoder: dict[str, Any] = {
        'dense': make.linear(latent, flat),
        'dense_relu': nnx.relu,
        'unflatten': nn.Unflatten((*size, channels)),
    }
    for i, width in enumerate(reversed(features), start=1):
        decoder[f'deconv{i}'] = make.conv_transpose(channels, width, (3, 3), strides=2)
        decoder[f'relu{i}'] = nnx.relu
        channels = width
    decoder['logits'] = make.conv_transpose(channels, input_shape[-1], (3, 3))
    layers = nn.Layers(encoder), nn.Layers(decoder)
    if variational:
        return VAE(*layers, input_shape, likelihood)
    return Autoencoder(*layers, input_shape)

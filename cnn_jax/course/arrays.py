"""Arrays for the cases of exercises, and the package's convolution of arrays without channels."""

import jax
import numpy as np

import cnn_jax

Array = np.ndarray


def whole_numbers(*shape: int, seed: int = 0) -> Array:
    """Returns float32 whole numbers from -4 to 4, which a student can check by hand."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def conv(x: Array, w: Array, padding='VALID', **options) -> Array:
    """Convolves x (*size) with w (*window), which have no channels; options of `cnn_jax.conv`."""
    x, w = np.asarray(x, np.float32), np.asarray(w, np.float32)
    return np.asarray(traced_conv(x, w, padding, **options))


def traced_conv(x, w, padding='VALID', **options) -> jax.Array:
    """The same for arrays that JAX traces, for example to differentiate."""
    y = cnn_jax.conv(
        x[..., None], w[..., None, None], padding=padding, precision='highest', **options
    )
    return y[..., 0]

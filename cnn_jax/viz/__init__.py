"""Figures of images, filters, samples and training runs: arrays in, PNG files out."""

from cnn_jax.errors import optional_packages

with optional_packages('viz'):
    import matplotlib  # noqa: F401

"""Figures of images, filters, samples and training runs, drawn from arrays to PNG files."""

from cnn_jax.errors import optional_packages

with optional_packages('viz'):
    import matplotlib  # noqa: F401

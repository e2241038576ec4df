"""Figures of images, filters, samples and training runs, and animations of convolutions."""

from cnn_jax.errors import optional_packages

with optional_packages('viz'):
    import matplotlib  # noqa: F401
    import PIL  # noqa: F401

from cnn_jax.viz.animation import animate

__all__ = ['animate']

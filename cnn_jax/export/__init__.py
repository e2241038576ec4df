"""Exports trained networks to run without this package. See docs/export.md."""

from cnn_jax.export.inference import Inference, load_inference, make_inference

__all__ = ['Inference', 'load_inference', 'make_inference']

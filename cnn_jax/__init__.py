"""Convolutional networks in JAX: operations with several kernels, modules, models, training."""

from cnn_jax.ops import *  # noqa: F403
from cnn_jax.ops import __all__ as _ops

__all__ = list(_ops)

__version__ = '0.1.0'

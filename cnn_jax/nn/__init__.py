"""Flax NNX modules over `cnn_jax.ops`, with Flax's argument and parameter names.

Flax's layers that need no other kernel (BatchNorm, Dropout, Embed, Linear) are not redefined here:
use those of `flax.nnx`.
"""

from cnn_jax.nn.conv import Conv
from cnn_jax.nn.conv_transpose import ConvTranspose
from cnn_jax.nn.layers import Block, Layers, Residual
from cnn_jax.nn.pool import (
    AdaptiveAvgPool,
    AvgPool,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    MaxPool,
    Unflatten,
)

__all__ = [
    'AdaptiveAvgPool',
    'AvgPool',
    'Block',
    'Conv',
    'ConvTranspose',
    'Flatten',
    'GlobalAvgPool',
    'GlobalMaxPool',
    'Layers',
    'MaxPool',
    'Residual',
    'Unflatten',
]

"""Flax NNX modules over `cnn_jax.ops`, with Flax's argument and parameter names.

What Flax has and needs no other kernel (BatchNorm, Dropout, Embed, Linear) is Flax's own: take it
from `flax.nnx`.
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

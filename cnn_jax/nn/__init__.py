"""Flax NNX modules over `cnn_jax.ops`, with Flax's argument and parameter names.

Flax's layers that need no other kernel (Dropout, Embed, LayerNorm, Linear) are not redefined here:
use those of `flax.nnx`, `Linear` with `dot_general=cnn_jax.dot_general`.
"""

from cnn_jax.nn.batch_norm import BatchNorm
from cnn_jax.nn.blur_pool import BlurPool
from cnn_jax.nn.causal_conv import CausalConv
from cnn_jax.nn.concat import Concat
from cnn_jax.nn.conv import Conv
from cnn_jax.nn.conv_transpose import ConvTranspose
from cnn_jax.nn.ghost_batch_norm import GhostBatchNorm
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
from cnn_jax.nn.squeeze_excitation import SqueezeExcitation
from cnn_jax.nn.stochastic_depth import StochasticDepth
from cnn_jax.nn.weight_standardized_conv import WeightStandardizedConv

__all__ = [
    'AdaptiveAvgPool',
    'AvgPool',
    'BatchNorm',
    'Block',
    'BlurPool',
    'CausalConv',
    'Concat',
    'Conv',
    'ConvTranspose',
    'Flatten',
    'GhostBatchNorm',
    'GlobalAvgPool',
    'GlobalMaxPool',
    'Layers',
    'MaxPool',
    'Residual',
    'SqueezeExcitation',
    'StochasticDepth',
    'Unflatten',
    'WeightStandardizedConv',
]

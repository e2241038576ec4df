"""Pure functions on arrays: convolution, transposed convolution, pooling, patches."""

from cnn_jax.ops.convolution import conv, conv_general_dilated
from cnn_jax.ops.dense import dot_general
from cnn_jax.ops.dispatch import implementations, use_implementation
from cnn_jax.ops.explanation import explain
from cnn_jax.ops.geometry import explain_padding, output_size, receptive_field
from cnn_jax.ops.lowering.install import install, installed, uninstall
from cnn_jax.ops.patches import fold, pad, unfold
from cnn_jax.ops.pool import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    lp_pool,
    max_pool,
)
from cnn_jax.ops.streaming import conv_stream
from cnn_jax.ops.transposed_convolution import conv_transpose
from cnn_jax.ops.unpool import max_unpool

__all__ = [
    'adaptive_avg_pool',
    'adaptive_max_pool',
    'avg_pool',
    'conv',
    'conv_general_dilated',
    'conv_stream',
    'conv_transpose',
    'dot_general',
    'explain',
    'explain_padding',
    'fold',
    'global_avg_pool',
    'global_max_pool',
    'implementations',
    'install',
    'installed',
    'lp_pool',
    'max_pool',
    'max_unpool',
    'output_size',
    'pad',
    'receptive_field',
    'unfold',
    'uninstall',
    'use_implementation',
]

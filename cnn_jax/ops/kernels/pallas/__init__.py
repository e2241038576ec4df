"""Computes depthwise convolutions of stride 1 on TPUs by one Pallas kernel.

It is used only where it is named. The input gradient is the convolution of dy with the flipped
kernel. Under `jit` on several devices, each convolves its part of the batch (`sharding.py`).

On other platforms, it runs only inside `interpreted`, for tests.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax.ops.kernels.pallas import sharding
from cnn_jax.ops.kernels.pallas.tiling import BUDGET, cut
from cnn_jax.ops.kernels.views import input_grad_spec
from cnn_jax.ops.spec import ConvSpec

PLATFORM = 'tpu'
MIB = 2**20

# Parameters of Pallas's interpreter, or None. It is part of the key of every jit cache.
_interpret = jax.make_user_context(None)


@contextlib.contextmanager
def interpreted(params: Any = True) -> Iterator[None]:
    """Context in which the kernel is interpreted, on any platform; slow.

    Args:
        params: True, for plain JAX operations, or `jax.experimental.pallas.tpu.InterpretParams`,
            which simulates a TPU's memories and cores. The simulation has effects that JAX cannot
            lower within a convolution, so that only the functions of this module can use it.
    """
    with _interpret(params):
        yield


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    ones = (1,) * spec.ndim
    if platform != PLATFORM and _interpret.value is None:
        return f'it runs on TPUs only, not on {platform}'
    if spec.ndim not in (1, 2):
        return f'it supports 1 and 2 spatial axes, not {spec.ndim}'
    if spec.dtype not in ('float32', 'bfloat16'):
        return f'it supports float32 and bfloat16, not {spec.dtype}'
    if not spec.is_depthwise or spec.out_features != spec.groups:
        return (
            'it needs groups, input and output features to be equal, '
            f'got {spec.groups}, {spec.in_features} and {spec.out_features}'
        )
    if spec.strides != ones:
        return f'it needs strides of 1, got {spec.strides}'
    if spec.input_dilation != ones:
        return f'it needs input_dilation of 1, got {spec.input_dilation}'
    if 0 in spec.x_shape + spec.kernel_shape + spec.y_shape:
        return 'it does not support arrays of size 0'
    computed = _in_2d(input_grad_spec(spec) if op == 'input_grad' else spec)
    if (needed := cut(computed).bytes(computed)) > BUDGET:
        return f'it needs {needed / MIB:.0f} MiB of VMEM for one row, above {BUDGET // MIB}'
    return None


def forward(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    return _call('forward', x, w, spec)


def input_grad(dy: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    return _call('forward', dy, jnp.flip(w, range(spec.ndim)), input_grad_spec(spec))


def filter_grad(x: jax.Array, dy: jax.Array, spec: ConvSpec) -> jax.Array:
    return _call('filter_grad', x, dy, spec).astype(spec.dtype)  # of sums in float32


@sharding.by_batch
def _call(op: str, a: jax.Array, b: jax.Array, spec: ConvSpec) -> jax.Array:
    from cnn_jax.ops.kernels.pallas import depthwise  # imports Pallas, which takes a while

    flat, interpret = _in_2d(spec), _interpret.value or False
    tiling, x = cut(flat), _batch_last(a)
    if op == 'filter_grad':
        dw = depthwise.filter_grad(x, _batch_last(b), flat, tiling, interpret)
        return dw.reshape(spec.kernel_shape)
    y = depthwise.forward(x, b, flat, tiling, interpret)
    return jnp.moveaxis(y, -2, 0).reshape(spec.y_shape)


def _in_2d(spec: ConvSpec) -> ConvSpec:
    """Returns `spec` with a second spatial axis of one position if it has only one."""
    if spec.ndim == 2:
        return spec
    ones = {'strides': (1, 1), 'input_dilation': (1, 1), 'dilation': (*spec.dilation, 1)}
    return spec.replace(
        input_size=(*spec.input_size, 1),
        window=(*spec.window, 1),
        padding=(*spec.padding, (0, 0)),
        **ones,
    )


def _batch_last(x: jax.Array) -> jax.Array:
    """Returns x (batch, *size, features) as (height, width, batch, features)."""
    batch, height, *width, features = x.shape
    return jnp.moveaxis(x, 0, -2).reshape(height, math.prod(width), batch, features)

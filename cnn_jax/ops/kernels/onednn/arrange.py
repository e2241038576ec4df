"""The same convolution written as another one, which oneDNN computes faster.

Only views and, for the arrays that `batch_inside` names, a transposition: the sums stay the same.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cnn_jax.ops.spec import ConvSpec

# Which of x, w (kernel) and y each operation takes, and which it gives.
ROLES = {'forward': 'xwy', 'input_grad': 'ywx', 'filter_grad': 'xyw'}


def shape(role: str, spec: ConvSpec) -> tuple[int, ...]:
    return {'x': spec.x_shape, 'w': spec.kernel_shape, 'y': spec.y_shape}[role]


class Arrangement(NamedTuple):
    """`spec` with arrays `into(role, array)`; `back(role, result)` undoes it."""

    spec: ConvSpec
    into: Callable[[str, jax.Array], jax.Array]
    back: Callable[[str, jax.Array], jax.Array]


def arrange(spec: ConvSpec, op: str) -> Arrangement:
    if _suits_batch_inside(spec, op):
        return batch_inside(spec)
    if _suits_folding(spec):
        return folded(spec)
    return Arrangement(spec, lambda role, a: a, lambda role, a: a)


def _suits_batch_inside(spec: ConvSpec, op: str) -> bool:
    # oneDNN's matrix products have one row for each output along the last axis, and the kernel
    # as their other operand: few rows and a large kernel are slow.
    largest = 3 if op == 'filter_grad' else 7
    large_kernel = spec.in_features * spec.out_features >= 256**2 * spec.groups
    return spec.ndim < 3 and spec.batch >= 8 and large_kernel and spec.output_size[-1] <= largest


def batch_inside(spec: ConvSpec) -> Arrangement:
    """The batch becomes one more spatial axis, the last one, with a window of 1.

    VGG-16's layers of 2x2 pixels run 4 to 6 times as fast, of 4x4 pixels 2 times.
    """
    inner = spec.replace(
        batch=1,
        input_size=(*spec.input_size, spec.batch),
        window=(*spec.window, 1),
        strides=(*spec.strides, 1),
        padding=(*spec.padding, (0, 0)),
        input_dilation=(*spec.input_dilation, 1),
        dilation=(*spec.dilation, 1),
    )

    def into(role, a):
        return a.reshape(inner.kernel_shape) if role == 'w' else jnp.moveaxis(a, 0, -2)[None]

    def back(role, a):
        return a.reshape(spec.kernel_shape) if role == 'w' else jnp.moveaxis(a[0], -2, 0)

    return Arrangement(inner, into, back)


def _suits_folding(spec: ConvSpec) -> bool:
    stride, size, window = spec.strides[-1], spec.input_size[-1], spec.window[-1]
    if stride == 1 or spec.in_features > 4 or spec.groups > 1:
        return False
    before, taps, after = _folded_axis(spec)
    return (
        spec.dilation[-1] == 1
        and size % stride == 0
        and after >= 0
        and 4 * taps * stride <= 5 * window
    )


def folded(spec: ConvSpec) -> Arrangement:
    """Along the last axis, `stride` neighbouring positions become channels, and the stride 1.

    A first layer on raw audio (1 channel, window 80, stride 4) runs twice as fast.
    """
    stride = spec.strides[-1]
    before, taps, after = _folded_axis(spec)
    inner = spec.replace(
        input_size=(*spec.input_size[:-1], spec.input_size[-1] // stride),
        in_features=spec.in_features * stride,
        window=(*spec.window[:-1], taps),
        strides=(*spec.strides[:-1], 1),
        padding=(*spec.padding[:-1], (before, after)),
    )
    first = before * stride - spec.padding[-1][0]  # taps of value 0 before the kernel
    last = taps * stride - spec.window[-1] - first

    def into(role, a):
        if role == 'w':
            a = jnp.pad(a, [(0, 0)] * (spec.ndim - 1) + [(first, last), (0, 0), (0, 0)])
            return a.reshape(inner.kernel_shape)
        return a.reshape(inner.x_shape) if role == 'x' else a

    def back(role, a):
        if role == 'w':
            a = a.reshape(*spec.window[:-1], taps * stride, *spec.kernel_shape[-2:])
            return jax.lax.slice_in_dim(a, first, first + spec.window[-1], axis=spec.ndim - 1)
        return a.reshape(spec.x_shape) if role == 'x' else a

    return Arrangement(inner, into, back)


def _folded_axis(spec: ConvSpec) -> tuple[int, int, int]:
    """Padding before, window, padding after of the last axis, in units of the stride."""
    stride, low = spec.strides[-1], spec.padding[-1][0]
    before = -(-low // stride)
    taps = -(-(before * stride - low + spec.window[-1]) // stride)
    after = spec.output_size[-1] - 1 + taps - spec.input_size[-1] // stride - before
    return before, taps, after


def prefers_plain_kernel(spec: ConvSpec, op: str) -> bool:
    """Whether oneDNN is faster, in float32, on the kernel as it is than on a blocked copy."""
    if op == 'input_grad':
        return spec.in_features < 8 and max(spec.strides) > 1
    few = spec.groups == 1 and spec.in_features <= 12
    return op == 'forward' and few and math.prod(spec.window) >= 9

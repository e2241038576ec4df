"""Rewrites a convolution as an equivalent one that oneDNN computes faster.

The sums stay the same. Arrays are only reshaped, transposed (`batch_inside`, `space_to_depth`),
padded (`space_to_depth`) or sliced (`subsample`, which also avoids an error of oneDNN).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cnn_jax.ops.spec import ConvSpec

MOST_TOGETHER = 1 << 12  # positions in one part of a filter gradient (`kMost` in problem.h)


class Arrangement(NamedTuple):
    """A convolution `spec` of arrays `into(role, array)`; `back(role, result)` inverts `into`."""

    spec: ConvSpec
    into: Callable[[str, jax.Array], jax.Array]
    back: Callable[[str, jax.Array], jax.Array]


def arrange(spec: ConvSpec, op: str) -> Arrangement:
    if _needs_subsampling(spec, op):
        return subsample(spec, op)
    if _suits_flattening(spec, op):
        return flatten(spec)
    if _suits_batch_inside(spec, op):
        return batch_inside(spec)
    arrangement = Arrangement(spec, lambda role, a: a, lambda role, a: a)
    for axis in _axes_to_depth(spec, op):
        arrangement = _then(arrangement, space_to_depth(arrangement.spec, axis))
    return arrangement


def _then(first: Arrangement, second: Arrangement) -> Arrangement:
    return Arrangement(
        second.spec,
        lambda role, a: second.into(role, first.into(role, a)),
        lambda role, a: first.back(role, second.back(role, a)),
    )


def _needs_subsampling(spec: ConvSpec, op: str) -> bool:
    if op != 'filter_grad' or set(spec.window) != {1} or set(spec.strides) == {1}:
        return False
    axes = zip(spec.input_size, spec.output_size, spec.strides, spec.padding, strict=True)
    return all(low == 0 and (out - 1) * stride < size for size, out, stride, (low, _) in axes)


def subsample(spec: ConvSpec, op: str) -> Arrangement:
    """Keeps only the positions that strided windows of 1 see, so that the stride becomes 1.

    oneDNN does the same in its working memory, but its filter gradient writes past the end of it
    with few features (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """
    ones = (1,) * spec.ndim
    inner = arrange(
        spec.replace(
            input_size=spec.output_size, strides=ones, padding=((0, 0),) * spec.ndim, dilation=ones
        ),
        op,
    )

    def into(role, a):
        if role == 'x':
            axes = zip(spec.output_size, spec.strides, strict=True)
            seen = [slice(0, (out - 1) * stride + 1, stride) for out, stride in axes]
            a = a[:, *seen]
        return inner.into(role, a)

    return Arrangement(inner.spec, into, inner.back)


def _suits_flattening(spec: ConvSpec, op: str) -> bool:
    positions = spec.batch * math.prod(spec.output_size)
    in_parts = op == 'filter_grad' and positions > MOST_TOGETHER
    return in_parts and spec.is_pointwise and spec.groups == 1


def flatten(spec: ConvSpec) -> Arrangement:
    """Makes one sequence of all positions of a pointwise convolution.

    oneDNN's filter gradient is slow where the number of positions of a part has no suitable
    divisor. Parts of a sequence have multiples of 64 (`kTogether` in conv.cc): with images of
    75x94 pixels, 64 and 256 features, it runs 1.6 times faster.
    """
    inner = spec.replace(
        batch=1,
        input_size=(spec.batch * math.prod(spec.input_size),),
        **dict.fromkeys(('window', 'strides', 'input_dilation', 'dilation'), (1,)),
        padding=((0, 0),),
    )
    return Arrangement(
        inner,
        lambda role, a: a.reshape(inner.shape(role)),
        lambda role, a: a.reshape(spec.shape(role)),
    )


def _suits_batch_inside(spec: ConvSpec, op: str) -> bool:
    # oneDNN's matrix products have one row for each output along the last axis, and the kernel
    # as their other operand. They are slow with few rows and a large kernel.
    largest = 3 if op == 'filter_grad' else 7
    large_kernel = spec.in_features * spec.out_features >= 256**2 * spec.groups
    return spec.ndim < 3 and spec.batch >= 8 and large_kernel and spec.output_size[-1] <= largest


def batch_inside(spec: ConvSpec) -> Arrangement:
    """Makes the batch the last spatial axis, with a window of 1.

    VGG-16's layers of 2x2 pixels run 4 to 6 times faster, and those of 4x4 pixels run 2 times
    faster.
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


def _axes_to_depth(spec: ConvSpec, op: str) -> list[int]:
    """Returns the axes whose positions should become features, the last one first."""
    if op == 'filter_grad' or spec.groups > 1:
        return []
    axes = zip(spec.strides, spec.window, spec.dilation, strict=True)
    whole = [i for i, (s, k, d) in enumerate(axes) if s > 1 and d == 1 and k % s == 0]
    if op == 'input_grad':  # its products have the input's features as their columns
        return whole[::-1] if spec.in_features <= 8 else []
    # The last axis alone needs no copy, unless a part of the padding must be written out.
    copies = spec.padding[-1][0] % spec.strides[-1] > 0
    is_long = spec.window[-1] >= 16
    last = spec.ndim - 1
    suits = last in whole and spec.in_features <= 4 and (is_long or not copies)
    return [last] if suits else []


def space_to_depth(spec: ConvSpec, axis: int) -> Arrangement:
    """Turns `stride` neighbouring positions along one axis into features, with stride 1.

    The remainder of the low padding modulo the stride is written out in the input. If the kernel
    were padded with zeros instead, an infinity next to a window would make its output NaN. A first
    layer on raw audio (1 channel, window 80, stride 4) or on patches runs up to twice as fast, and
    the input gradient of a 4x4 window with stride 2 and 3 features, three times as fast.
    """
    stride, size, (padding, _) = spec.strides[axis], spec.input_size[axis], spec.padding[axis]
    taps = spec.window[axis] // stride
    before, low = divmod(padding, stride)
    seen = spec.output_size[axis] - 1 + taps - before
    inner_size = min(-(-(low + size) // stride), seen)
    high = inner_size * stride - low - size  # if negative, crops positions that no window sees

    def changed(values, value):
        return (*values[:axis], value, *values[axis + 1 :])

    inner = spec.replace(
        input_size=changed(spec.input_size, inner_size),
        in_features=spec.in_features * stride,
        window=changed(spec.window, taps),
        strides=changed(spec.strides, 1),
        padding=changed(spec.padding, (before, seen - inner_size)),
    )

    def extend(a, low, high):
        config = [(0, 0, 0)] * a.ndim
        config[axis + 1] = (low, high, 0)
        return jax.lax.pad(a, jnp.zeros((), a.dtype), config)

    def into(role, a):
        if role == 'y':
            return a
        at, features = (axis + 1, -2) if role == 'x' else (axis, -3)
        a = extend(a, low, high) if role == 'x' else a
        a = a.reshape(*a.shape[:at], -1, stride, *a.shape[at + 1 :])
        return jnp.moveaxis(a, at + 1, features).reshape(inner.shape(role))

    def back(role, a):
        if role == 'y':
            return a
        a = jnp.moveaxis(a.reshape(*a.shape[:-1], stride, -1), -2, axis + 2)
        a = a.reshape(*a.shape[: axis + 1], -1, *a.shape[axis + 3 :])
        return extend(a, -low, -high)

    return Arrangement(inner, into, back)


def prefers_plain_kernel(spec: ConvSpec, op: str) -> bool:
    """Returns whether oneDNN is faster in float32 without a blocked copy of the kernel."""
    taps = math.prod(spec.window)
    if op == 'input_grad':
        return spec.in_features < 8 and max(spec.strides) > 1 and taps > 25
    few = spec.groups == 1 and spec.in_features <= 12
    return op == 'forward' and few and taps >= 9

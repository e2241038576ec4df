"""Patches: `pad` with every mode, `unfold` (im2col) and its adjoint `fold` (col2im)."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops import checks
from cnn_jax.ops.pool_spec import PoolSpec, spatial_ndim
from cnn_jax.ops.spec import Pairs, accumulator, check_window, dilated, resolve_padding

Array = jax.Array

PADDING_MODES = ('zeros', 'reflect', 'replicate', 'circular')

_NUMPY_MODES = {'reflect': 'reflect', 'replicate': 'edge', 'circular': 'wrap'}


def pad(x: Any, padding: Any, mode: str = 'zeros') -> Array:
    """Pads the spatial axes of x.

    For x = 1 2 3 4 and padding 2:  zeros 00123400, reflect 32123432, replicate 11123444,
    circular 34123412.

    Args:
        x: (*batch, *size, features).
        padding: one int or (lo, hi) pair per spatial axis; or one int for all spatial axes of x
            (batch, *size, features). Negative only with mode 'zeros': it crops.
        mode: 'zeros', 'reflect' (less than the size), 'replicate' or 'circular' (up to the size).

    Returns:
        (*batch, *padded size, features). The gradient of 16-bit floats adds up in float32.

    Raises:
        ValueError, TypeError: naming the argument, its value, and what would be right.
    """
    x = checks.array(x, 'x')
    ndim = spatial_ndim(x, padding, 'padding')
    checks.choice(mode, 'mode', PADDING_MODES)
    pairs = checks.pairs(padding, ndim, 'padding', None if mode == 'zeros' else 0)
    for axis, (n, pair) in enumerate(zip(x.shape[-1 - ndim : -1], pairs, strict=True)):
        limit = {'reflect': n - 1, 'circular': n}.get(mode, max(pair))
        if max(pair) > limit:
            raise ValueError(
                f'padding on spatial axis {axis} must be at most {limit} for mode {mode!r} and '
                f'size {n}, got {pair}'
            )
        if n + sum(pair) < 1:
            raise ValueError(
                f'padding on spatial axis {axis} must leave something of size {n}, got {pair}'
            )
    return _pad(x, pairs, mode)


def unfold(
    x: Any,
    window: checks.Size,
    *,
    strides: checks.Size = 1,
    padding: Any = 0,
    dilation: checks.Size = 1,
) -> Array:
    """All patches of x (im2col).

    Entry  t * features + c  of a patch is feature c of the window's tap t, taps numbered row by
    row: `unfold(x, window) @ kernel.reshape(-1, out)` is the convolution with a kernel
    (*window, features, out). (PyTorch's, channels first, has c * taps + t, and one axis of patches;
    here they keep their place in space.)

    Args:
        x: (*batch, *size, features).
        window: an int or one per spatial axis.
        strides, dilation: an int or one per spatial axis.
        padding: with zeros, in any form that `conv` takes, not negative.

    Returns:
        (*batch, *output size, prod(window) * features).

    Raises:
        ValueError, TypeError: naming the argument, its value, and what would be right.
    """
    x = checks.array(x, 'x')
    ndim = spatial_ndim(x, window, 'window')
    spec = _spec(x.shape, ndim, x.dtype, window, strides, padding, dilation)
    y = _unfold(x.reshape(spec.batch, *x.shape[-1 - ndim :]), spec)
    return y.reshape(*x.shape[: -1 - ndim], *y.shape[1:])


def fold(
    patches: Any,
    output_size: checks.Size,
    window: checks.Size,
    *,
    strides: checks.Size = 1,
    padding: Any = 0,
    dilation: checks.Size = 1,
) -> Array:
    """The adjoint of `unfold` (col2im): every entry of a patch is added to where it came from.

    16-bit floats add up in float32 and are rounded once.

    Args:
        patches: (*batch, *number of patches, prod(window) * features), as `unfold` returns them.
        output_size: spatial size of the result, an int or one per spatial axis.
        window, strides, padding, dilation: those of `unfold`.

    Returns:
        (*batch, *output_size, features).

    Raises:
        ValueError, TypeError: naming the argument, its value, and what would be right.
    """
    patches = checks.array(patches, 'patches')
    ndim = spatial_ndim(patches, window, 'window')
    size = checks.per_axis(output_size, ndim, 'output_size')
    taps = math.prod(checks.per_axis(window, ndim, 'window'))
    if patches.shape[-1] % taps:
        raise ValueError(
            f'the last axis of patches must be a multiple of the {taps} elements of window '
            f'{window}, got shape {patches.shape}'
        )
    batch_shape = patches.shape[: -1 - ndim]
    shape = (*batch_shape, *size, patches.shape[-1] // taps)
    spec = _spec(shape, ndim, patches.dtype, window, strides, padding, dilation)
    if patches.shape[-1 - ndim : -1] != spec.output_size:
        raise ValueError(
            f'patches must have spatial axes {spec.output_size} for output_size {size}, window '
            f'{spec.window}, strides {spec.strides}, padding {spec.padding} and dilation '
            f'{spec.dilation}; got shape {patches.shape}'
        )
    y = _fold(patches.reshape(spec.batch, *patches.shape[-1 - ndim :]), spec)
    return y.reshape(shape)


def _spec(
    shape: tuple[int, ...],
    ndim: int,
    dtype: Any,
    window: Any,
    strides: Any,
    padding: Any,
    dilation: Any,
) -> PoolSpec:
    """The geometry of the patches of an array of `shape`, (*batch, *size, features)."""
    window = checks.per_axis(window, ndim, 'window')
    strides = checks.per_axis(strides, ndim, 'strides')
    dilation = checks.per_axis(dilation, ndim, 'dilation')
    size, spans = shape[-1 - ndim : -1], tuple(map(dilated, window, dilation))
    pairs = resolve_padding(padding, size, spans, strides)
    if min(itertools.chain(*pairs)) < 0:
        raise ValueError(f'padding must not be negative, got {padding!r}')
    spec = PoolSpec(
        batch=math.prod(shape[: -1 - ndim]),
        input_size=size,
        features=shape[-1],
        window=window,
        strides=strides,
        padding=pairs,
        dilation=dilation,
        dtype=str(dtype),
    )
    check_window(spec.padded_size, spans)
    return spec


@functools.partial(jax.jit, static_argnames=('pairs', 'mode'), inline=True)
def _pad(x: Array, pairs: Pairs, mode: str) -> Array:
    rest = x.ndim - 1 - len(pairs)
    if mode == 'zeros':
        config = [(0, 0, 0)] * rest + [(*pair, 0) for pair in pairs] + [(0, 0, 0)]
        return lax.pad(x, np.zeros((), x.dtype), config)
    wide = x.astype(accumulator(x.dtype))  # for the gradient, a sum over copies
    wide = jnp.pad(wide, [(0, 0)] * rest + [*pairs, (0, 0)], mode=_NUMPY_MODES[mode])
    return wide.astype(x.dtype)


@functools.partial(jax.jit, static_argnames='spec', inline=True)
def _unfold(x: Array, spec: PoolSpec) -> Array:
    wide = x.astype(accumulator(x.dtype))  # for the gradient, a sum over patches
    wide = lax.pad(wide, np.zeros((), wide.dtype), [(0, 0, 0), *_holes(spec), (0, 0, 0)])
    views = []
    for start in _starts(spec):
        stop = [
            at + (out - 1) * s + 1
            for at, out, s in zip(start, spec.output_size, spec.strides, strict=True)
        ]
        views.append(
            lax.slice(
                wide,
                (0, *start, 0),
                (spec.batch, *stop, spec.features),
                (1, *spec.strides, 1),
            )
        )
    return jnp.concatenate(views, axis=-1).astype(x.dtype)


@functools.partial(jax.jit, static_argnames='spec', inline=True)
def _fold(patches: Array, spec: PoolSpec) -> Array:
    wide = patches.astype(accumulator(patches.dtype))
    total = 0
    for tap, start in enumerate(_starts(spec)):
        view = lax.slice_in_dim(wide, tap * spec.features, (tap + 1) * spec.features, axis=-1)
        config = []
        for at, n, out, s, (lo, _) in zip(
            start, spec.input_size, spec.output_size, spec.strides, spec.padding, strict=True
        ):
            before = at - lo
            config.append((before, n - before - (out - 1) * s - 1, s - 1))
        total += lax.pad(view, np.zeros((), wide.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    return total.astype(patches.dtype)


def _starts(spec: PoolSpec) -> list[tuple[int, ...]]:
    """Where, in the padded input, the first window has each of its taps; row by row."""
    axes = zip(spec.window, spec.dilation, strict=True)
    return list(itertools.product(*(range(0, k * d, d) for k, d in axes)))


def _holes(spec: PoolSpec) -> list[tuple[int, int, int]]:
    return [(*pair, 0) for pair in spec.covered]

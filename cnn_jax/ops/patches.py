"""Implements `pad` with every mode, `unfold` (im2col) and its adjoint `fold` (col2im)."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.errors import UserError, UserTypeError
from cnn_jax.ops import checks
from cnn_jax.ops.pool_spec import PoolSpec, spatial_ndim
from cnn_jax.ops.spec import Pairs, accumulator, check_window, dilated, resolve_padding
from cnn_jax.ops.types import ArrayLike, Padding, Size

Array = jax.Array

PADDING_MODES = ('zeros', 'reflect', 'replicate', 'circular')


def pad(x: ArrayLike, padding: Padding, mode: str = 'zeros', value: float = 0) -> Array:
    """Pads the spatial axes of x.

    For x = 1 2 3 4 and padding 2:  zeros 00123400, reflect 32123432, replicate 11123444,
    circular 34123412.

    Args:
        x: (*batch, *size, features).
        padding: one int or (lo, hi) pair per spatial axis, or one int for all spatial axes of x
            (batch, *size, features). Negative padding crops; it requires mode 'zeros'.
        mode: 'zeros', 'reflect' (padding less than the size), 'replicate' or 'circular' (padding up
            to the size).
        value: the number to fill with; only for mode 'zeros'.

    Returns:
        (*batch, *padded size, features). The gradient of 16-bit floats accumulates in float32.

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    x = checks.array(x, 'x')
    ndim = spatial_ndim(x, padding, 'padding')
    checks.choice(mode, 'mode', PADDING_MODES)
    pairs = checks.pairs(padding, ndim, 'padding', None if mode == 'zeros' else 0)
    for axis, (n, pair) in enumerate(zip(x.shape[-1 - ndim : -1], pairs, strict=True)):
        limit = {'reflect': n - 1, 'circular': n}.get(mode, max(pair))
        if max(pair) > limit:
            raise UserError(
                f'padding on spatial axis {axis} must be at most {limit} for mode {mode!r} and '
                f'size {n}, got {pair}'
            )
        if n + sum(pair) < 1:
            raise UserError(
                f'padding on spatial axis {axis} must leave a size of at least 1, got {pair} for '
                f'size {n}'
            )
    value = _check_value(value, mode, x.dtype)
    return _pad(x, pairs, mode, value)


def unfold(
    x: ArrayLike,
    window: Size,
    *,
    strides: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
) -> Array:
    """Extracts all patches of x (im2col).

    Entry  t * features + c  of a patch is feature c at tap t of the window. Taps are numbered in
    row-major order, so `unfold(x, window) @ kernel.reshape(-1, out)` is the convolution with a
    kernel (*window, features, out). (PyTorch uses channels first, entry c * taps + t, and a single
    axis of patches. Here the patches keep their spatial axes.)

    Args:
        x: (*batch, *size, features).
        window: an int or one per spatial axis.
        strides, dilation: an int or one per spatial axis.
        padding: zero padding, in any form that `conv` accepts; not negative.

    Returns:
        (*batch, *output size, prod(window) * features).

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    x = checks.array(x, 'x')
    ndim = spatial_ndim(x, window, 'window')
    spec = _spec(x.shape[-1 - ndim : -1], window, strides, padding, dilation)
    return _unfold(x, spec)


def fold(
    patches: ArrayLike,
    output_size: Size,
    window: Size,
    *,
    strides: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
) -> Array:
    """Computes the adjoint of `unfold` (col2im): adds each entry of a patch to its source position.

    16-bit floats accumulate in float32 and are rounded once.

    Args:
        patches: (*batch, *number of patches, prod(window) * features), as `unfold` returns them.
        output_size: spatial size of the result, an int or one per spatial axis.
        window, strides, padding, dilation: as passed to `unfold`.

    Returns:
        (*batch, *output_size, features).

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    patches = checks.array(patches, 'patches')
    ndim = spatial_ndim(patches, window, 'window')
    size = checks.per_axis(output_size, ndim, 'output_size')
    taps = math.prod(checks.per_axis(window, ndim, 'window'))
    if patches.shape[-1] % taps:
        raise UserError(
            f'the last axis of patches must be a multiple of the {taps} elements of window '
            f'{window}, got shape {patches.shape}'
        )
    spec = _spec(size, window, strides, padding, dilation)
    if patches.shape[-1 - ndim : -1] != spec.output_size:
        raise UserError(
            f'patches must have spatial axes {spec.output_size} for output_size {size}, window '
            f'{spec.window}, strides {spec.strides}, padding {spec.padding} and dilation '
            f'{spec.dilation}; got shape {patches.shape}'
        )
    return _fold(patches, spec)


def _check_value(value: Any, mode: str, dtype: Any) -> int | float:
    if jnp.issubdtype(dtype, jnp.integer):
        value, info = checks.integer(value, 'value'), jnp.iinfo(dtype)
        if not info.min <= value <= info.max:
            raise UserError(f'value must be from {info.min} to {info.max} for {dtype}, got {value}')
    elif isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise UserTypeError(f'value must be a number, got {value!r}')
    if mode != 'zeros' and value != 0:
        raise UserError(f"value must be 0 unless mode is 'zeros', got {value!r} and mode {mode!r}")
    return value


def _spec(
    size: tuple[int, ...], window: Any, strides: Any, padding: Any, dilation: Any
) -> PoolSpec:
    """Returns the geometry of the patches of an array of spatial size `size`."""
    ndim = len(size)
    window = checks.per_axis(window, ndim, 'window')
    strides = checks.per_axis(strides, ndim, 'strides')
    dilation = checks.per_axis(dilation, ndim, 'dilation')
    spans = tuple(map(dilated, window, dilation))
    pairs = resolve_padding(padding, size, spans, strides)
    if min(itertools.chain(*pairs)) < 0:
        raise UserError(f'padding must not be negative, got {padding!r}')
    spec = PoolSpec(
        input_size=size,
        window=window,
        strides=strides,
        padding=pairs,
        dilation=dilation,
    )
    check_window(spec.padded_size, spans)
    return spec


@functools.partial(jax.jit, static_argnames=('pairs', 'mode', 'value'), inline=True)
def _pad(x: Array, pairs: Pairs, mode: str, value: float) -> Array:
    if mode == 'zeros':
        return _filled(x, [(*pair, 0) for pair in pairs], value)
    wide = x.astype(accumulator(x.dtype))  # because the gradient is a sum over copies
    # jnp.pad would also slice the batch axes, which an explicit mesh may forbid.
    for axis, (lo, hi) in enumerate(pairs, -1 - len(pairs)):
        cut, n = functools.partial(lax.slice_in_dim, wide, axis=axis), wide.shape[axis]
        if mode == 'circular':
            before, after = cut(n - lo, n), cut(0, hi)
        elif mode == 'replicate':
            times = functools.partial(jnp.repeat, axis=axis)
            before, after = times(cut(0, 1), lo), times(cut(n - 1, n), hi)
        else:
            before, after = jnp.flip(cut(1, 1 + lo), axis), jnp.flip(cut(n - 1 - hi, n - 1), axis)
        wide = lax.concatenate([before, wide, after], wide.ndim + axis)
    return wide.astype(x.dtype)


def _filled(x: Array, config: Sequence[tuple[int, int, int]], value: float = 0) -> Array:
    """Pads x along its spatial axes; `config` is as in lax.pad."""
    rest = [(0, 0, 0)] * (x.ndim - 1 - len(config))
    return lax.pad(x, np.asarray(value).astype(x.dtype), [*rest, *config, (0, 0, 0)])


@functools.partial(jax.jit, static_argnames='spec', inline=True)
def _unfold(x: Array, spec: PoolSpec) -> Array:
    wide = x.astype(accumulator(x.dtype))  # because the gradient is a sum over patches
    wide = _filled(wide, [(*pair, 0) for pair in spec.covered])
    views = []
    for start in _starts(spec):
        view = wide
        for axis, at, out, s in zip(spec.axes, start, spec.output_size, spec.strides, strict=True):
            view = lax.slice_in_dim(view, at, at + (out - 1) * s + 1, s, axis)
        views.append(view)
    return jnp.concatenate(views, axis=-1).astype(x.dtype)


@functools.partial(jax.jit, static_argnames='spec', inline=True)
def _fold(patches: Array, spec: PoolSpec) -> Array:
    wide = patches.astype(accumulator(patches.dtype))
    features = wide.shape[-1] // math.prod(spec.window)
    total: Array | int = 0
    for tap, start in enumerate(_starts(spec)):
        view = lax.slice_in_dim(wide, tap * features, (tap + 1) * features, axis=-1)
        config = []
        for at, n, out, s, (lo, _) in zip(
            start, spec.input_size, spec.output_size, spec.strides, spec.padding, strict=True
        ):
            before = at - lo
            config.append((before, n - before - (out - 1) * s - 1, s - 1))
        total += _filled(view, config)
    return jnp.asarray(total).astype(patches.dtype)


def _starts(spec: PoolSpec) -> list[tuple[int, ...]]:
    """Returns the first window's tap positions in the padded input, in row-major order."""
    axes = zip(spec.window, spec.dilation, strict=True)
    return list(itertools.product(*(range(0, k * d, d) for k, d in axes)))

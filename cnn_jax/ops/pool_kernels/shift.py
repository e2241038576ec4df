"""Pooling as a maximum or sum over shifted views, one view per tap.

Each spatial axis is split into blocks of one stride (`blocks`), so that no view has a stride. The
gradient of a maximum gathers: an element of a block reads the few windows that contain it.

Small windows are reduced over all axes at once, in one pass over the input. Larger ones are reduced
one axis after the other: a 7 x 7 window costs 7 + 7 views instead of 49. The last axis comes first,
so that the first maximum in the column of row maxima is also the first in row-major order.
"""

import functools
import itertools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops.pool_kernels import winners as win
from cnn_jax.ops.pool_kernels.blocks import Axis, axis_of, pad, part_of, split
from cnn_jax.ops.pool_spec import PoolSpec
from cnn_jax.ops.spec import accumulator

Array = jax.Array
Codes = tuple[Array, ...]

# More views would make a program that takes minutes to compile.
MOST_VIEWS = 64

# Windows of up to this many elements are reduced over all axes at once.
MOST_AT_ONCE = 16


def supports(spec: PoolSpec) -> str | None:
    if not spec.is_static:
        return f'needs spatial axes of static sizes, got {spec.input_size}'
    if sum(spec.window) > MOST_VIEWS:
        return f'needs at most {MOST_VIEWS} taps, one axis after the other, got {spec.window}'
    return None


def maximum(x: Array, spec: PoolSpec) -> Array:
    y = x.astype(accumulator(x.dtype))  # exact; XLA's CPU backend is slow on 16-bit floats
    fill = win.lowest(x.dtype)
    for axes in _groups(spec):
        y = functools.reduce(jnp.maximum, _views(y, axes, fill))
    return y.astype(x.dtype)


def total(x: Array, spec: PoolSpec) -> Array:
    y = x.astype(accumulator(x.dtype))
    for axes in _groups(spec):
        y = _sum(y, axes)
    return y


def winners(x: Array, spec: PoolSpec) -> Codes:
    """Returns, for each reduction, the row-major number of the winning tap."""
    y = x.astype(accumulator(x.dtype))
    fill = win.lowest(x.dtype)
    codes = []
    for axes in _groups(spec):
        y, code = win.of_taps(_views(y, axes, fill), _first_inside(axes, spec, x.ndim))
        codes.append(code)
    return tuple(codes)


def pick(values: Array, codes: Codes, spec: PoolSpec) -> Array:
    """Returns the elements of `values` at the winners, 0 for winners in the padding.

    It is linear in `values`. It computes in the accumulator's dtype, because its transpose sums up
    to one term per window that contains an element.
    """
    y = values.astype(accumulator(values.dtype))
    for axes, code in zip(_groups(spec), codes, strict=True):
        y = _sum(y, axes, code)
    return y.astype(values.dtype)


def _sum(x: Array, axes: Sequence[Axis], code: Array | None = None) -> Array:
    """Sums the elements of every window, or only those with the number `code` (*windows)."""
    # The order of the steps suits the transpose, which XLA fuses into one loop over the elements of
    # dx. There, the last step pads dy, the padding of each term is a slice of that, and so on.
    blocks = [a.windows + a.reach for a in axes]
    if code is not None:  # what its padding selects is cropped below
        code = pad(code, {a.at: (a.reach, a.reach) for a in axes}, 0)
    phases = split(x, axes, np.zeros((), x.dtype))
    terms = []
    for number, (shifts, phase) in enumerate(_taps(axes)):
        term = phases[phase]
        behind = [a.reach - shift for a, shift in zip(axes, shifts, strict=True)]
        if code is not None:  # in block i, the tap belongs to window i - shift
            here = part_of(code, axes, behind, blocks) == code.dtype.type(number)
            term = jnp.where(here, term, 0)
        ends = zip(axes, behind, shifts, strict=True)
        terms.append(pad(term, {a.at: (lo, hi) for a, lo, hi in ends}, 0))
    total = functools.reduce(operator.add, terms)
    return part_of(total, axes, [a.reach for a in axes], [a.windows for a in axes])


def _groups(spec: PoolSpec) -> list[list[Axis]]:
    """Returns the axes of each reduction."""
    axes = [axis_of(spec, number) for number in range(spec.ndim)]
    return [axes] if math.prod(spec.window) <= MOST_AT_ONCE else [[a] for a in axes[::-1]]


def _taps(axes: Sequence[Axis]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns (shifts, phases) of the elements of a window, in row-major order."""
    taps = itertools.product(*(a.taps for a in axes))
    return [(tuple(shift for shift, _ in tap), tuple(phase for _, phase in tap)) for tap in taps]


def _views(x: Array, axes: Sequence[Axis], fill: np.ndarray) -> list[Array]:
    """Returns, for each tap, that element of every window."""
    phases = split(x, axes, fill)
    windows = [a.windows for a in axes]
    return [part_of(phases[phase], axes, shifts, windows) for shifts, phase in _taps(axes)]


def _first_inside(axes: Sequence[Axis], spec: PoolSpec, ndim: int) -> np.ndarray:
    """Returns the number of the first tap of each window that reads the input, 0 if none does."""
    first = np.zeros((), np.int64)
    for a in axes:
        first = np.add.outer(first * len(a.taps), spec.inside(a.number).argmax(1))
    others = set(range(-ndim, 0)) - {a.at for a in axes}
    return np.expand_dims(first, [at + ndim for at in others]).astype(np.uint8)

"""Defines PoolSpec, a frozen, hashable description of a pooling call with its shape arithmetic.

Notation, for one spatial axis: input size n, window k, stride s, dilation d, padding (lo, hi).
Tap t of window o is at input position  o s - lo + t d.  Taps outside [0, n) are padding. The
semantics are PyTorch's (aten/src/ATen/native/Pool.h): the number of windows is

    floor((n + lo + hi - (k - 1) d - 1) / s) + 1

With `ceil_mode`, the fraction is rounded up instead, and a last window that would start in the
padding after the input is dropped.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from cnn_jax.errors import UserError, UserTypeError
from cnn_jax.ops import checks
from cnn_jax.ops.spec import Pairs, dilated, resolve_padding


@dataclasses.dataclass(frozen=True)
class PoolSpec:
    """Pooling of x (*batch, *input_size, features), channels last.

    `count_include_pad` and `divisor_override` apply to averages only.
    """

    input_size: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.window)

    @property
    def is_static(self) -> bool:
        """Whether all spatial sizes are known; those of an exported program may be symbolic."""
        return all(isinstance(n, int) for n in self.input_size)

    @property
    def axes(self) -> tuple[int, ...]:
        """The spatial axes of x, counted from the end."""
        return tuple(range(-1 - self.ndim, -1))

    @property
    def dilated_window(self) -> tuple[int, ...]:
        return tuple(map(dilated, self.window, self.dilation))

    @property
    def padded_size(self) -> tuple[int, ...]:
        return tuple(n + lo + hi for n, (lo, hi) in zip(self.input_size, self.padding, strict=True))

    @property
    def output_size(self) -> tuple[int, ...]:
        return tuple(map(self._windows, range(self.ndim)))

    def _windows(self, axis: int) -> int:
        stride, (lo, _) = self.strides[axis], self.padding[axis]
        spare = self.padded_size[axis] - self.dilated_window[axis]
        if not self.ceil_mode:
            return spare // stride + 1
        count = -(-spare // stride) + 1
        starts_behind_input = (count - 1) * stride >= self.input_size[axis] + lo
        return count - 1 if starts_behind_input else count

    @property
    def covered(self) -> Pairs:
        """The padding (lo, hi) per axis such that the padded input ends where the last window ends.

        `hi` is greater than that of `padding` if ceil_mode adds a window, and negative if the end
        of the input is not read.
        """
        return tuple(
            (lo, (out - 1) * s + k - n - lo)
            for out, s, k, n, (lo, _) in zip(
                self.output_size,
                self.strides,
                self.dilated_window,
                self.input_size,
                self.padding,
                strict=True,
            )
        )

    def inside(self, axis: int, margin: tuple[int, int] = (0, 0)) -> np.ndarray:
        """Returns bool (output, window): whether a tap reads the input or a margin around it."""
        windows, taps = np.ogrid[: self.output_size[axis], : self.window[axis]]
        at = windows * self.strides[axis] - self.padding[axis][0] + taps * self.dilation[axis]
        return (-margin[0] <= at) & (at < self.input_size[axis] + margin[1])

    def has_empty_window(self) -> bool:
        """Returns whether all taps of some window read padding.

        This can happen because dilation can step over a short input.
        """
        return any(not self.inside(axis).any(1).all() for axis in range(self.ndim))

    def divisors(self) -> np.ndarray:
        """Returns the divisors of an average: one number, or (*output_size, 1)."""
        if self.divisor_override is not None:
            return np.array(self.divisor_override)
        if not self.is_static:  # then padding counts or there is none, see `make_spec`
            return np.array(math.prod(self.window))
        # Padding counts, but positions that ceil_mode reads beyond the padding do not.
        margins = self.padding if self.count_include_pad else ((0, 0),) * self.ndim
        counts = [self.inside(axis, margin).sum(1) for axis, margin in enumerate(margins)]
        product = functools.reduce(np.multiply.outer, counts)[..., None]
        return product.ravel()[0] if (product == product.ravel()[0]).all() else product


def spatial_ndim(x: Any, size: Any, name: str, *, symbolic: bool = False) -> int:
    """Returns the number of spatial axes of x.

    It is the length of `size`. If `size` is one int, all axes between the first (batch) and the
    last (features) are spatial. `symbolic`: whether they may have symbolic sizes.
    """
    ndim = len(size) if checks.is_sequence(size) else x.ndim - 2
    if not 1 <= ndim <= 3:
        raise UserError(
            f'{name} must have 1 to 3 elements, one per spatial axis (an int serves for all axes '
            f'of x (batch, *size, features)); got {size!r} for x of shape {x.shape}'
        )
    if x.ndim < ndim + 1:
        raise UserError(
            f'x must have {ndim} spatial axes, to match {name}={size!r}, and a feature axis; '
            f'got shape {x.shape}'
        )
    if not symbolic and not all(isinstance(n, int) for n in x.shape[-1 - ndim : -1]):
        raise UserError(
            f'x must have spatial axes of static sizes (batch and features may be symbolic), '
            f'got shape {x.shape}'
        )
    if 0 in x.shape[-1 - ndim :]:
        raise UserError(
            f'x must have no spatial or feature axis of size 0, got shape {x.shape} '
            f'(only batch axes may be empty)'
        )
    return ndim


def index_dtype(count: int, name: str) -> Any:
    """Returns the dtype of indices of `count` elements: int32, or int64 if int32 is too small.

    Raises:
        ValueError: the indices need int64, but 64-bit types are not enabled.
    """
    if count <= np.iinfo(np.int32).max:
        return np.dtype(np.int32)
    if jax.dtypes.canonicalize_dtype(np.int64) != np.int64:
        raise UserError(
            f'{name} has {count} positions, more than int32 can number: enable 64-bit types '
            f'(jax_enable_x64)'
        )
    return np.dtype(np.int64)


def make_spec(
    x: Any,
    window: Any,
    strides: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
    count_include_pad: Any = True,
    divisor_override: Any = None,
    *,
    symbolic: bool = False,
) -> PoolSpec:
    """Builds the spec of a pooling call on x (*batch, *size, features).

    `symbolic`: whether spatial sizes may be symbolic, where the output size and the divisors follow
    without knowing them.

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    ndim = spatial_ndim(x, window, 'window', symbolic=symbolic)
    window = checks.per_axis(window, ndim, 'window')
    strides = window if strides is None else checks.per_axis(strides, ndim, 'strides')
    dilation = checks.per_axis(dilation, ndim, 'dilation')
    for value, name in ((ceil_mode, 'ceil_mode'), (count_include_pad, 'count_include_pad')):
        if not isinstance(value, bool | np.bool_):
            raise UserTypeError(f'{name} must be True or False, got {value!r}')
    if divisor_override is not None:
        divisor_override = checks.integer(divisor_override, 'divisor_override')
        if divisor_override == 0:
            raise UserError('divisor_override must not be 0: averages are divided by it')
    size, spans = x.shape[-1 - ndim : -1], tuple(map(dilated, window, dilation))
    pairs = resolve_padding(padding, size, spans, strides)
    spec = PoolSpec(
        input_size=size,
        window=window,
        strides=strides,
        padding=pairs,
        dilation=dilation,
        ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad),
        divisor_override=divisor_override,
    )
    if not spec.is_static:
        _check_symbolic(spec)
    _check_padding(padding, spec)
    _check_window(spec)
    return spec


def _is_decided(spec: PoolSpec) -> bool:
    """Returns whether the output size with `ceil_mode` follows from what is known of the sizes."""
    try:
        return all(isinstance(hi, int) for _, hi in spec.covered)
    except Exception:  # InconclusiveDimensionOperation, of jax.core or jax.errors by version
        return False


def _check_symbolic(spec: PoolSpec) -> None:
    uncounted = not spec.count_include_pad and any(map(any, spec.padding))
    for what, is_set in (
        ('ceil_mode', spec.ceil_mode and not _is_decided(spec)),
        ('count_include_pad=False with padding', uncounted and spec.divisor_override is None),
        ('this padding', not all(isinstance(n, int) for pair in spec.padding for n in pair)),
    ):
        if is_set:
            raise UserError(f'{what} needs spatial axes of static sizes, got {spec.input_size}')


def _check_padding(padding: Any, spec: PoolSpec) -> None:
    sides = padding if checks.is_sequence(padding) else (padding,)
    is_pairs = any(isinstance(side, str) or checks.is_sequence(side) for side in sides)
    for axis, (span, pair) in enumerate(zip(spec.dilated_window, spec.padding, strict=True)):
        limit = span - 1 if is_pairs else span // 2
        if min(pair) < 0 or max(pair) > limit:
            raise UserError(
                f'padding on spatial axis {axis} must be from 0 to {limit} for a window that spans '
                f'{span} positions '
                f'({"less than the span" if is_pairs else "at most half, or give (lo, hi) pairs"})'
                f', got {padding!r}'
            )


def _check_window(spec: PoolSpec) -> None:
    for axis, count in enumerate(spec.output_size):
        if isinstance(count, int) and count < 1:
            raise UserError(
                f'the window spans {spec.dilated_window[axis]} positions on spatial axis {axis}, '
                f'but the padded input has only {spec.padded_size[axis]}: use a smaller window or '
                f'dilation, or more padding'
            )

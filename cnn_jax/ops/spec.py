"""Defines ConvSpec, a frozen, hashable description of a convolution with its shape arithmetic.

Notation, for one spatial axis: input size n, window k, stride s, dilation d, input dilation e,
padding (lo, hi). The dilated input has (n - 1) e + 1 positions, the dilated window has
(k - 1) d + 1 positions, and the output has

    floor(((n - 1) e + 1 + lo + hi - (k - 1) d - 1) / s) + 1

positions (Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning",
arXiv:1603.07285, relationships 6 and 15).
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from cnn_jax.errors import UserError
from cnn_jax.ops import checks

PADDINGS = ('SAME', 'SAME_LOWER', 'VALID', 'CAUSAL')

Pairs = tuple[tuple[int, int], ...]

# The three maps of a convolution. Each is bilinear, and its transposes are the other two. The
# string gives the roles of its two operands and of its result (x: input, w: kernel, y: output).
ROLES = {'forward': 'xwy', 'input_grad': 'ywx', 'filter_grad': 'xyw'}
MAPS = tuple(ROLES)


def dilated(size: int, dilation: int) -> int:
    """Returns the span of `size` elements with `dilation - 1` holes between neighbours."""
    return (size - 1) * dilation + 1 if size > 0 else 0


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """A convolution of x (batch, *input_size, in_features) with a kernel
    (*window, in_features // groups, out_features), channels last.

    It holds everything that a kernel's `supports`, a tuning table or a benchmark needs. `padding`
    has one (lo, hi) pair per axis and is never negative, because `conv` crops before it builds a
    spec. `dtype` is the dtype of the result and of both operands. If the operands are narrower
    integers, such as int8 with sums in int32, `operand_dtype` is theirs.
    """

    batch: int
    input_size: tuple[int, ...]
    in_features: int
    window: tuple[int, ...]
    out_features: int
    strides: tuple[int, ...]
    padding: Pairs
    input_dilation: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    dtype: str
    precision: Any = None
    operand_dtype: str | None = None

    @property
    def ndim(self) -> int:
        """Number of spatial axes."""
        return len(self.window)

    @property
    def dilated_window(self) -> tuple[int, ...]:
        return tuple(map(dilated, self.window, self.dilation))

    @property
    def padded_size(self) -> tuple[int, ...]:
        """Spatial size after input dilation and padding."""
        return tuple(
            dilated(n, e) + lo + hi
            for n, e, (lo, hi) in zip(
                self.input_size, self.input_dilation, self.padding, strict=True
            )
        )

    @property
    def output_size(self) -> tuple[int, ...]:
        return tuple(
            (n - k) // s + 1
            for n, k, s in zip(self.padded_size, self.dilated_window, self.strides, strict=True)
        )

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, *self.input_size, self.in_features)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        return (*self.window, self.in_features // self.groups, self.out_features)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.batch, *self.output_size, self.out_features)

    def shape(self, role: str) -> tuple[int, ...]:
        """Returns the shape of x, w or y; see `ROLES`."""
        return {'x': self.x_shape, 'w': self.kernel_shape, 'y': self.y_shape}[role]

    @property
    def macs(self) -> int:
        """Number of multiply-accumulate operations of the direct form, counting padding as data."""
        return math.prod(self.y_shape) * math.prod(self.kernel_shape[:-1])

    @property
    def is_depthwise(self) -> bool:
        return self.groups == self.in_features

    @property
    def is_pointwise(self) -> bool:
        """Whether this is a 1x1 convolution that reads each input position once, without shifts."""
        return (
            set(self.window) == {1}
            and set(self.strides) == {1}
            and set(self.input_dilation) == {1}
            and all(p == (0, 0) for p in self.padding)
        )

    def replace(self, **changes: Any) -> 'ConvSpec':
        return dataclasses.replace(self, **changes)


def resolve_padding(
    padding: Any,
    size: tuple[int, ...],
    window: tuple[int, ...],
    strides: tuple[int, ...],
) -> Pairs:
    """Resolves every accepted form of `padding` to (lo, hi) per axis.

    Args:
        padding: an int, one int per axis, one (lo, hi) pair per axis (negative crops), 'VALID',
            'SAME' (output size ceil(size / stride); the odd element goes after, as in XLA),
            'SAME_LOWER' (the odd element goes before), or 'CAUSAL' (1-D; all padding goes before,
            so that no output sees a later input).
        size, window: spatial sizes, already dilated.
        strides: one int per axis.

    Raises:
        ValueError, TypeError: `padding` has none of these forms.
    """
    if not isinstance(padding, str):
        return checks.pairs(padding, len(window), 'padding')
    name = checks.choice(padding.upper(), 'padding', PADDINGS)
    if name == 'VALID':
        return ((0, 0),) * len(window)
    if name == 'CAUSAL':
        if len(window) != 1:
            raise UserError(f"padding 'CAUSAL' needs 1 spatial axis, got {len(window)}")
        return ((window[0] - 1, 0),)
    result = []
    for n, k, s in zip(size, window, strides, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        small, large = total // 2, total - total // 2
        result.append((small, large) if name == 'SAME' else (large, small))
    return tuple(result)


def check_window(padded: tuple[int, ...], window: tuple[int, ...]) -> None:
    """Raises if a dilated window does not fit into the padded input."""
    for axis, (n, k) in enumerate(zip(padded, window, strict=True)):
        if isinstance(n, int) and k > n:
            raise UserError(
                f'the kernel spans {k} positions on spatial axis {axis}, but the padded input has '
                f'only {n}: use a smaller kernel or dilation, or more padding'
            )


def canonical_precision(precision: Any) -> Any:
    """Converts a precision that jax.lax accepts to None, one `lax.Precision`, or a pair of them."""
    if precision is None or isinstance(precision, lax.Precision):
        return precision
    try:
        if isinstance(precision, tuple | list) and len(precision) == 2:
            both = tuple(lax.Precision(p) for p in precision)
            return both[0] if both[0] == both[1] else both
        return lax.Precision(precision)
    except ValueError:
        raise UserError(
            f'precision must be None, a jax.lax.Precision, its name, or a pair; got {precision!r}'
        ) from None


def accumulator(dtype: Any) -> Any:
    """Returns the dtype that sums of `dtype` accumulate in; float32 for 16-bit floats."""
    dtype = jnp.dtype(dtype)
    is_small_float = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4
    return jnp.dtype(jnp.float32) if is_small_float else dtype

"""Convolution: checks the arguments, canonicalizes them and binds JAX's primitive.

`conv`, `conv_general_dilated` (a drop-in for `jax.lax.conv_general_dilated`) and
`transposed_convolution.conv_transpose` all end in `lowering.rules.bind`.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from cnn_jax.errors import UserError
from cnn_jax.ops import checks, dispatch, kernels, patches
from cnn_jax.ops.dispatch import Implementation
from cnn_jax.ops.lowering.rules import bind
from cnn_jax.ops.operands import add_bias, check_operands
from cnn_jax.ops.spec import canonical_precision, check_window, dilated, resolve_padding
from cnn_jax.ops.types import ArrayLike, DTypeLike, Padding, PaddingMode, PrecisionLike, Size

Array = jax.Array

dispatch.declare('conv', kernels.KERNELS, convolution=True)


def conv(
    x: ArrayLike,
    kernel: ArrayLike,
    *,
    strides: Size = 1,
    padding: Padding = 'SAME',
    dilation: Size = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    padding_mode: PaddingMode = 'zeros',
    input_dilation: Size = 1,
    precision: PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Any = None,
    implementation: Implementation = None,
) -> Array:
    """Computes a convolution in 1, 2 or 3 dimensions, channels last.

    As is usual in deep learning, the kernel is not flipped (cross-correlation):

        y[..., i, o] = bias[o] + sum_k sum_c x[..., strides * i + dilation * k, c] kernel[k, c, o]

    where x is already padded. The output has floor((n + lo + hi - dilation * (k - 1) - 1) / stride)
    + 1 positions per axis.

    Args:
        x: (*batch, *size, in_features), with any number of batch axes, including zero.
        kernel: (*window, in_features // groups, out_features); its rank determines the number of
            spatial axes.
        strides, dilation, input_dilation: an int, or one per spatial axis; `dilation` spaces
            the taps of the kernel, and `input_dilation` spaces the elements of x.
        padding: an int, one per axis, (lo, hi) pairs per axis (negative crops), 'VALID', 'SAME',
            'SAME_LOWER' or 'CAUSAL'; see `resolve_padding`.
        groups: number of groups that the features are split into; each output group sees only its
            own input group. groups == in_features is a depthwise convolution.
        bias: (out_features,), or None.
        padding_mode: how to fill the padding: 'zeros', 'reflect', 'replicate' or 'circular'.
        precision: as in jax.lax.
        preferred_element_type: dtype of the result, as if the operands were cast to it before they
            are multiplied; None means the dtype of x. 16-bit floats always accumulate in float32
            and are rounded once. Integers narrower than 32 bits require this argument, because
            their sums would wrap around; int8 with int32 is exact, and fast on CPUs.
        out_sharding: sharding of the result, as in jax.lax, for meshes with explicit axes.
        implementation: the name of a kernel, several names in order of preference, a mapping from
            'forward', 'input_grad' and 'filter_grad' to either, or None for the choice measured on
            this kind of device.

    Returns:
        (*batch, *output size, out_features).

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    x, kernel, checked_bias, ndim = check_operands(x, kernel, bias, groups, preferred_element_type)
    strides = checks.per_axis(strides, ndim, 'strides')
    dilation = checks.per_axis(dilation, ndim, 'dilation')
    groups = int(groups)
    input_dilation = checks.per_axis(input_dilation, ndim, 'input_dilation')
    checks.choice(padding_mode, 'padding_mode', patches.PADDING_MODES)
    precision = canonical_precision(precision)

    batch_shape, size = x.shape[: -1 - ndim], x.shape[-1 - ndim : -1]
    window = tuple(map(dilated, kernel.shape[:ndim], dilation))
    holed = tuple(map(dilated, size, input_dilation))
    is_symbolic = not all(isinstance(n, int) for n in size)
    if not (is_symbolic and _is_known_to_lax(padding, input_dilation, padding_mode)):
        padding = resolve_padding(padding, holed, window, strides)
        check_window(tuple(n + lo + hi for n, (lo, hi) in zip(holed, padding, strict=True)), window)

    if padding_mode != 'zeros':
        if input_dilation != (1,) * ndim:
            raise UserError(
                f'padding_mode {padding_mode!r} needs input_dilation 1, got {input_dilation}'
            )
        x = patches.pad(x, padding, mode=padding_mode)
        padding = ((0, 0),) * ndim
    y = bind(
        'conv',
        one_batch_axis(x, batch_shape),
        kernel,
        implementation,
        window_strides=strides,
        padding=padding,
        lhs_dilation=input_dilation,
        rhs_dilation=dilation,
        dimension_numbers=channels_last(ndim),
        feature_group_count=groups,
        batch_group_count=1,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    return restore_batch(add_bias(y, checked_bias), batch_shape)


def _is_known_to_lax(padding: Any, input_dilation: tuple[int, ...], mode: str) -> bool:
    """Returns whether lax can compute the padding itself once the symbolic size is known."""
    named = isinstance(padding, str) and padding.upper() in ('SAME', 'SAME_LOWER', 'VALID')
    return named and set(input_dilation) == {1} and mode == 'zeros'


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Any = None,
    *,
    implementation: Implementation = None,
) -> Array:
    """Computes `jax.lax.conv_general_dilated` with the kernels of this package.

    The arguments are those of `jax.lax` (the default layout is NCHW, OIHW), so this function can be
    passed to Flax: `nnx.Conv(..., conv_general_dilated=cnn_jax.conv_general_dilated)`.
    `implementation` is as in `conv`. XLA's own convolution computes what no kernel supports
    (complex numbers, no spatial axes).

    Raises:
        ValueError, TypeError: as in jax.lax, or an unknown or unsuitable implementation.
    """
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    ones = (1,) * (len(layout.rhs_spec) - 2)
    lhs_dilation, rhs_dilation = (tuple(d or ones) for d in (lhs_dilation, rhs_dilation))
    if isinstance(padding, str) and lhs_dilation == ones:
        size = [lhs.shape[axis] for axis in layout.lhs_spec[2:]]
        window = [rhs.shape[axis] for axis in layout.rhs_spec[2:]]
        window = [*map(dilated, window, rhs_dilation)]
        padding = lax.padtype_to_pads(size, window, window_strides, padding)
    return bind(
        'conv',
        lhs,
        rhs,
        implementation,
        window_strides=window_strides,
        padding=padding if isinstance(padding, str) else [tuple(pair) for pair in padding],
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=layout,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=canonical_precision(precision),
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )


def channels_last(ndim: int) -> lax.ConvDimensionNumbers:
    """Returns the layout of x (batch, *size, features) and a kernel (*window, in, out)."""
    images = (0, ndim + 1, *range(1, ndim + 1))
    return lax.ConvDimensionNumbers(images, (ndim + 1, ndim, *range(ndim)), images)


def one_batch_axis(x: Array, batch_shape: Sequence[int]) -> Array:
    if len(batch_shape) == 1:
        return x
    if not batch_shape:
        return lax.expand_dims(x, [0])
    return x.reshape(math.prod(batch_shape), *x.shape[len(batch_shape) :])


def restore_batch(y: Array, batch_shape: Sequence[int]) -> Array:
    """Undoes `one_batch_axis`."""
    if len(batch_shape) == 1:
        return y
    return y.reshape(*batch_shape, *y.shape[1:]) if batch_shape else lax.squeeze(y, [0])

"""Transposed convolution, computed as a convolution of x with holes between its elements.

Scatter form, for one spatial axis with n inputs, window k, stride s, dilation d:

    full[s i + d t] += x[i] kernel[t]          length (n - 1) s + d (k - 1) + 1

`crop` = (lo, hi) positions are then removed from `full` (a negative crop adds zeros). Frameworks
differ only in how they specify the crop and in whether they flip the kernel; see `conv_transpose`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax.errors import UserError, UserTypeError
from cnn_jax.ops import checks, dispatch, kernels, patches
from cnn_jax.ops.convolution import channels_last, one_batch_axis, restore_batch
from cnn_jax.ops.dispatch import Implementation
from cnn_jax.ops.lowering.rules import bind
from cnn_jax.ops.operands import add_bias, check_operands
from cnn_jax.ops.spec import Pairs, canonical_precision, dilated
from cnn_jax.ops.types import ArrayLike, DTypeLike, Padding, PrecisionLike, Size

Array = jax.Array

CONVENTIONS = ('torch', 'keras', 'lax')

dispatch.declare('conv_transpose', kernels.KERNELS, convolution=True)


def conv_transpose(
    x: ArrayLike,
    kernel: ArrayLike,
    *,
    strides: Size = 1,
    padding: Padding = 'SAME',
    output_padding: Size = 0,
    output_size: Size | None = None,
    dilation: Size = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    padding_mode: str = 'zeros',
    convention: str = 'torch',
    precision: PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    out_sharding: Any = None,
    implementation: Implementation = None,
) -> Array:
    """Computes a transposed convolution in 1, 2 or 3 dimensions, channels last.

    With the padding of a `conv` and `convention='torch'`, this is exactly the transpose of that
    convolution, <conv(a), b> = <a, conv_transpose(b)>, if the two feature axes of the kernel are
    swapped (within each group).

    Conventions, for window k, stride s, dilation d, span D = d (k - 1) + 1:

    | convention | 'SAME' | 'VALID' | int or pairs: output size | kernel |
    |---|---|---|---|---|
    | 'torch' | n s | (n-1)s + D | cropped off: (n-1)s + D - lo - hi + output_padding | as is |
    | 'keras' | n s | (n-1)s + max(D, s) | not accepted | as is |
    | 'lax' | n s | (n-1)s + max(D, s) | around the dilated x: (n-1)s + 2 + lo + hi - D | flipped |

    'torch' is torch.nn.ConvTranspose, 'keras' is keras.layers.ConvTranspose (and TensorFlow's), and
    'lax' is jax.lax.conv_transpose and flax.nnx.ConvTranspose (transpose_kernel=False). The
    kernel's axes are the same in all three. PyTorch itself stores (in, out // groups, *window), and
    Keras stores (*window, out, in).

    Args:
        x: (*batch, *size, in_features), with any number of batch axes, including zero.
        kernel: (*window, in_features // groups, out_features).
        strides, dilation: an int, or one per spatial axis.
        padding: see the table. 'SAME' crops D - s positions, with the odd one at the end, or adds
            s - D zeros at the end.
        output_padding: number of positions to keep at the end that `padding` would crop, as in
            PyTorch; at least 0 and less than the stride or the dilation.
        output_size: the spatial size of the result, instead of `output_padding`.
        groups, bias, precision, preferred_element_type, out_sharding: as in `conv`.
        padding_mode: the padding mode of the convolution that this call transposes. With
            'circular', 'reflect' or 'replicate', the cropped positions are added to the elements
            that such padding repeats; these modes need convention 'torch' and a floating-point
            dtype.
        convention: the meaning of `padding`, and whether the kernel is flipped; see the table.
        implementation: as in `conv`. 'lax' uses input dilation, 'interior' materializes the holes
            as zeros, and 'subpixel' computes each phase of the output without multiplying by zeros.

    Returns:
        (*batch, *output size, out_features).

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    x, kernel, checked_bias, ndim = check_operands(x, kernel, bias, groups, preferred_element_type)
    strides = checks.per_axis(strides, ndim, 'strides')
    dilation = checks.per_axis(dilation, ndim, 'dilation')
    groups = int(groups)
    checks.choice(convention, 'convention', CONVENTIONS)
    precision = canonical_precision(precision)
    size = x.shape[-1 - ndim : -1]
    if 0 in size:
        raise UserError(f'x must have no spatial axis of size 0, got shape {x.shape}')
    window = tuple(map(dilated, kernel.shape[:ndim], dilation))
    full = tuple((n - 1) * s + k for n, s, k in zip(size, strides, window, strict=True))
    checks.choice(padding_mode, 'padding_mode', patches.PADDING_MODES)
    repeated = crops = resolve_crop(padding, convention, window, strides)
    if output_size is None:
        extra = checks.per_axis(output_padding, ndim, 'output_padding', 0)
    else:
        extra = _extra_for(output_size, output_padding, full, crops)
    crops = _with_output_padding(crops, extra, strides, dilation, output_size)
    out_size = tuple(f - lo - hi for f, (lo, hi) in zip(full, crops, strict=True))
    if any(isinstance(n, int) and n < 1 for n in out_size):
        raise UserError(
            f'padding {padding!r} leaves an output of spatial size {out_size}; '
            f'uncropped it is {full}'
        )

    if padding_mode != 'zeros':
        _check_padding_mode(padding_mode, convention, x.dtype, repeated)
        crops = tuple((0, -e) for e in extra)
    if convention != 'lax':
        kernel = jnp.flip(kernel, range(ndim))
    batch_shape = x.shape[: -1 - ndim]
    y = bind(
        'conv_transpose',
        one_batch_axis(x, batch_shape),
        kernel,
        implementation,
        window_strides=(1,) * ndim,
        padding=[(k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(window, crops, strict=True)],
        lhs_dilation=strides,
        rhs_dilation=dilation,
        dimension_numbers=channels_last(ndim),
        feature_group_count=groups,
        batch_group_count=1,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    if padding_mode != 'zeros':
        unpadded = jax.ShapeDtypeStruct((y.shape[0], *out_size, y.shape[-1]), y.dtype)
        pad = lambda a: patches.pad(a, repeated, mode=padding_mode)  # noqa: E731
        (y,) = jax.linear_transpose(pad, unpadded)(y)
    return restore_batch(add_bias(y, checked_bias), batch_shape)


def _check_padding_mode(mode: str, convention: str, dtype: Any, crops: Pairs) -> None:
    if convention != 'torch':
        raise UserError(f"padding_mode {mode!r} needs convention 'torch', got {convention!r}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserTypeError(f'padding_mode {mode!r} needs floating point, got x of dtype {dtype}')
    if min(min(pair) for pair in crops) < 0:
        raise UserError(f'padding_mode {mode!r} needs padding of 0 or more, got {crops}')


def resolve_crop(
    padding: Any, convention: str, window: tuple[int, ...], strides: tuple[int, ...]
) -> Pairs:
    """Returns the crop (lo, hi) of the full output per axis, before output padding."""
    if not isinstance(padding, str):
        if convention == 'keras':
            raise UserError(f"padding must be 'SAME' or 'VALID' in keras, got {padding!r}")
        given = checks.pairs(padding, len(window), 'padding', 0 if convention == 'torch' else None)
        if convention == 'torch':
            return given
        return tuple((k - 1 - lo, k - 1 - hi) for k, (lo, hi) in zip(window, given, strict=True))
    name = checks.choice(padding.upper(), 'padding', ('SAME', 'VALID'))
    over = tuple(k - s for k, s in zip(window, strides, strict=True))
    if name == 'SAME':
        return tuple((max(o, 0) // 2, o - max(o, 0) // 2) for o in over)
    if convention == 'torch':
        return ((0, 0),) * len(window)
    return tuple((0, min(o, 0)) for o in over)


def _extra_for(output_size: Any, output_padding: Any, full: Any, crops: Pairs) -> tuple[int, ...]:
    n = len(full)
    if checks.per_axis(output_padding, n, 'output_padding', 0) != (0,) * n:
        raise UserError(
            f'give output_padding ({output_padding!r}) or output_size ({output_size!r}), not both'
        )
    wanted = checks.per_axis(output_size, n, 'output_size')
    return tuple(w - (f - lo - hi) for w, f, (lo, hi) in zip(wanted, full, crops, strict=True))


def _with_output_padding(
    crops: Pairs, extra: Any, strides: Any, dilation: Any, output_size: Any
) -> Pairs:
    for axis, (e, s, d) in enumerate(zip(extra, strides, dilation, strict=True)):
        if not 0 <= e < max(s, d, 1 if output_size is None else 0):
            asked = (
                f'output_padding {extra}' if output_size is None else f'output_size {output_size}'
            )
            raise UserError(
                f'{asked}: the result can be extended by 0 to {max(s, d) - 1} on spatial axis '
                f'{axis} (less than the stride or the dilation), not by {e}'
            )
    return tuple((lo, hi - e) for (lo, hi), e in zip(crops, extra, strict=True))

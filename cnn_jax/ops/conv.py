"""Convolution: check the arguments, bring them into one canonical form, choose the kernel, run it.

`conv`, `conv_general_dilated` (the drop-in for `jax.lax.conv_general_dilated`) and, in
`conv_transpose.py`, the transposed convolution, all end in the three maps of `bilinear.py`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops import bilinear, checks, dispatch, kernels, patches
from cnn_jax.ops.dispatch import Implementation
from cnn_jax.ops.kernels import Choice
from cnn_jax.ops.operands import add_bias, check_operands
from cnn_jax.ops.spec import (
    ConvSpec,
    canonical_precision,
    check_window,
    dilated,
    resolve_padding,
)

Array = jax.Array

dispatch.declare('conv', kernels.KERNELS)


def conv(
    x: Any,
    kernel: Any,
    *,
    strides: checks.Size = 1,
    padding: Any = 'SAME',
    dilation: checks.Size = 1,
    groups: int = 1,
    bias: Any = None,
    padding_mode: str = 'zeros',
    input_dilation: checks.Size = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    implementation: Implementation = None,
) -> Array:
    """Convolution in 1, 2 or 3 dimensions, channels last.

    As everywhere in deep learning the kernel is not flipped (cross-correlation):

        y[..., i, o] = bias[o] + sum_k sum_c x[..., strides * i + dilation * k, c] kernel[k, c, o]

    with x taken as padded. The output has, per axis, floor((n + lo + hi - dilation * (k - 1) - 1) /
    stride) + 1 positions.

    Args:
        x: (*batch, *size, in_features), with any number of batch axes, also none.
        kernel: (*window, in_features // groups, out_features); its rank says how many spatial axes
            there are.
        strides, dilation, input_dilation: an int, or one per spatial axis; `dilation` spreads the
            taps of the kernel, `input_dilation` the elements of x.
        padding: an int, one per axis, (lo, hi) pairs per axis (negative crops), 'VALID', 'SAME',
            'SAME_LOWER' or 'CAUSAL'; see `resolve_padding`.
        groups: the features are split into this many groups that do not see each other;
            groups == in_features is a depthwise convolution.
        bias: (out_features,), or None.
        padding_mode: what the padding holds: 'zeros', 'reflect', 'replicate' or 'circular'.
        precision: as in jax.lax.
        preferred_element_type: dtype of the result and of the operands before they are multiplied;
            None: that of x. 16-bit floats always add up in float32 and are rounded once.
        implementation: a kernel's name, several in order of preference, or None for the choice
            measured on this kind of device.

    Returns:
        (*batch, *output size, out_features).

    Raises:
        ValueError, TypeError: naming the argument, its value, and what would be right.
    """
    x, kernel, bias, ndim = check_operands(x, kernel, bias, groups, preferred_element_type)
    strides = checks.per_axis(strides, ndim, 'strides')
    dilation = checks.per_axis(dilation, ndim, 'dilation')
    input_dilation = checks.per_axis(input_dilation, ndim, 'input_dilation')
    checks.choice(padding_mode, 'padding_mode', patches.PADDING_MODES)
    precision = canonical_precision(precision)

    batch_shape, size = x.shape[: -1 - ndim], x.shape[-1 - ndim : -1]
    window = tuple(map(dilated, kernel.shape[:ndim], dilation))
    holed = tuple(map(dilated, size, input_dilation))
    padding = resolve_padding(padding, holed, window, strides)
    check_window(tuple(n + lo + hi for n, (lo, hi) in zip(holed, padding, strict=True)), window)

    if padding_mode != 'zeros':
        if input_dilation != (1,) * ndim:
            raise ValueError(
                f'padding_mode {padding_mode!r} needs input_dilation 1, got {input_dilation}'
            )
        x = patches.pad(x, padding, mode=padding_mode)
        padding = ((0, 0),) * ndim
    x = x.reshape(math.prod(batch_shape), *x.shape[-1 - ndim :])
    x, padding, input_dilation = _without_crops(x, padding, input_dilation)
    spec = ConvSpec(
        batch=x.shape[0],
        input_size=x.shape[1:-1],
        in_features=x.shape[-1],
        window=kernel.shape[:ndim],
        out_features=kernel.shape[-1],
        strides=strides,
        padding=padding,
        input_dilation=input_dilation,
        dilation=dilation,
        groups=groups,
        dtype=str(x.dtype),
        precision=precision,
    )
    y = bilinear.forward(x, kernel, spec, choose('conv', 'forward', spec, implementation))
    y = add_bias(y, bias)
    return y.reshape(*batch_shape, *y.shape[1:])


def conv_general_dilated(
    lhs: Any,
    rhs: Any,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
    *,
    implementation: Implementation = None,
) -> Array:
    """`jax.lax.conv_general_dilated`, by the kernels of this package.

    The arguments mean what they mean there (the default layout is NCHW, OIHW), so this function can
    be handed to Flax: `nnx.Conv(..., conv_general_dilated=cnn_jax.conv_general_dilated)`.
    `implementation` is that of `conv`. `out_sharding` must be None.

    Raises:
        ValueError, TypeError: as `conv`; also for an `out_sharding`.
    """
    lhs, rhs = checks.array(lhs, 'lhs'), checks.array(rhs, 'rhs')
    if out_sharding is not None:
        raise ValueError(f'out_sharding must be None (not supported), got {out_sharding!r}')
    if lhs.ndim != rhs.ndim:
        raise ValueError(f'lhs and rhs must have one rank, got {lhs.shape} and {rhs.shape}')
    layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    x = jnp.transpose(lhs, _channels_last(layout.lhs_spec))
    # rhs_spec is (out, in, *window); a kernel here is (*window, in, out)
    kernel = jnp.transpose(rhs, (*layout.rhs_spec[2:], layout.rhs_spec[1], layout.rhs_spec[0]))
    groups = checks.integer(feature_group_count, 'feature_group_count', 1)
    batch_groups = checks.integer(batch_group_count, 'batch_group_count', 1)
    if batch_groups > 1:
        # Part g of the batch meets part g of the kernels: the same as one more group of features.
        if groups > 1:
            raise ValueError(
                'feature_group_count and batch_group_count cannot both be greater than 1, got '
                f'{groups} and {batch_groups}'
            )
        if x.shape[0] % batch_groups or kernel.shape[-1] % batch_groups:
            raise ValueError(
                f'batch_group_count must divide the batch ({x.shape[0]}) and the output features '
                f'({kernel.shape[-1]}), got {batch_groups}'
            )
        x = x.reshape(batch_groups, -1, *x.shape[1:])
        x = jnp.moveaxis(x, 0, -2)
        x = x.reshape(*x.shape[:-2], -1)
        groups = batch_groups
    y = conv(
        x,
        kernel,
        strides=window_strides,
        padding=padding,
        dilation=1 if rhs_dilation is None else rhs_dilation,
        groups=groups,
        input_dilation=1 if lhs_dilation is None else lhs_dilation,
        precision=precision,
        preferred_element_type=preferred_element_type,
        implementation=implementation,
    )
    order = _channels_last(layout.out_spec)
    return jnp.transpose(y, sorted(range(y.ndim), key=order.__getitem__))


def choose(op: str, primary: str, spec: ConvSpec, implementation: Implementation) -> Choice | None:
    """The kernels for a call of the public operation `op`, whose own map is `primary`; None where
    neither the caller nor the context names one."""
    name = dispatch.select(
        op, implementation, lambda name: kernels.reason_against(name, primary, spec)
    )
    return None if name is None else Choice(name, name, name)


def _without_crops(x: Array, padding: Any, input_dilation: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """Negative padding written out as a crop (after input dilation), so that no kernel meets it."""
    config, kept, holes = [], [], []
    for (lo, hi), e in zip(padding, input_dilation, strict=True):
        crops = lo < 0 or hi < 0
        config.append((lo, hi, e - 1) if crops else (0, 0, 0))
        kept.append((0, 0) if crops else (lo, hi))
        holes.append(1 if crops else e)
    if any(c != (0, 0, 0) for c in config):
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    return x, tuple(kept), tuple(holes)


def _channels_last(spec: tuple[int, ...]) -> tuple[int, ...]:
    """(batch, feature, *spatial) axes, as lax gives them, in the order batch, *spatial, feature."""
    return (spec[0], *spec[2:], spec[1])

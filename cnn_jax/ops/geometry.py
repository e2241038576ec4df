"""Computes output sizes, the effect of each padding convention, and receptive fields."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cnn_jax.errors import UserError
from cnn_jax.ops import checks
from cnn_jax.ops.spec import check_window, dilated, resolve_padding
from cnn_jax.ops.transposed_convolution import resolve_crop
from cnn_jax.ops.types import Padding, Size
from cnn_jax.tables import aligned


def output_size(
    size: Size,
    window: Size,
    *,
    strides: Size = 1,
    padding: Padding = 'SAME',
    dilation: Size = 1,
    input_dilation: Size = 1,
) -> tuple[int, ...]:
    """Returns the spatial size of `conv`'s result for an input of spatial size `size`.

    Args:
        size, window: an int, or one per spatial axis; a sequence sets the number of spatial axes.
        strides, padding, dilation, input_dilation: as in `conv`.

    Raises:
        ValueError, TypeError: as in `conv`.
    """
    size, window, strides, dilation, input_dilation = each_axis(
        size=size, window=window, strides=strides, dilation=dilation, input_dilation=input_dilation
    )
    holed = tuple(map(dilated, size, input_dilation))
    span = tuple(map(dilated, window, dilation))
    pads = resolve_padding(padding, holed, span, strides)
    padded = tuple(n + lo + hi for n, (lo, hi) in zip(holed, pads, strict=True))
    check_window(padded, span)
    return tuple((n - k) // s + 1 for n, k, s in zip(padded, span, strides, strict=True))


def explain_padding(
    size: Size,
    window: Size,
    *,
    strides: Size = 1,
    dilation: Size = 1,
) -> str:
    """Returns a table of what each padding convention adds or crops, and of the resulting sizes.

    For `conv`, the rows are the named paddings and PyTorch's usual int padding,
    dilation * (window - 1) // 2. For `conv_transpose`, they show what each convention
    crops (a negative crop adds zeros).

    Args:
        size, window, strides, dilation: an int, or one per spatial axis.
    """
    size, window, strides, dilation = each_axis(
        size=size, window=window, strides=strides, dilation=dilation
    )
    span = tuple(map(dilated, window, dilation))
    rows = [('conv', 'adds (before, after)', 'output size')]
    torch = tuple((k - 1) // 2 for k in span)
    names: list[Any] = ['VALID', 'SAME', 'SAME_LOWER', *(['CAUSAL'] if len(size) == 1 else [])]
    for padding in [*names, torch]:
        pads = resolve_padding(padding, size, span, strides)
        fits = all(n + lo + hi >= k for n, (lo, hi), k in zip(size, pads, span, strict=True))
        out = (
            output_size(size, window, strides=strides, padding=pads, dilation=dilation)
            if fits
            else 'window does not fit'
        )
        label = padding if isinstance(padding, str) else f'padding={_short(padding)} (PyTorch)'
        rows.append((label, _short(pads), _short(out)))
    rows.append(('conv_transpose', 'crops (before, after)', 'output size'))
    full = tuple((n - 1) * s + k for n, s, k in zip(size, strides, span, strict=True))
    for convention in ('torch', 'keras', 'lax'):
        for padding in ('VALID', 'SAME', *([torch] if convention == 'torch' else [])):
            crops = resolve_crop(padding, convention, span, strides)
            out = tuple(n - lo - hi for n, (lo, hi) in zip(full, crops, strict=True))
            rows.append((f'{convention} {_short(padding)}', _short(crops), _short(out)))
    title = (
        f'size {_short(size)}, window {_short(window)}, strides {_short(strides)}, '
        f'dilation {_short(dilation)}'
    )
    return f'{title}\n{aligned(rows, left=3)}'


class ReceptiveField(NamedTuple):
    """The input positions that each output position sees, along one axis.

    Each output sees `size` input positions, and neighbouring outputs are `stride` input positions
    apart. The first output starts at `start`, which is negative if it lies in the padding.
    """

    size: int
    stride: int
    start: int


def receptive_field(layers: Iterable[Sequence[int]]) -> ReceptiveField:
    """Computes the receptive field of a stack of convolutions and pooling layers along one axis.

    Source: Araujo, Norris & Sim 2019, "Computing receptive fields of convolutional neural
    networks", Distill, section "Computing receptive field regions".

    Args:
        layers: from input to output, (window, stride), (window, stride, padding before) or
            (window, stride, padding before, dilation).
    """
    size, jump, start = 1, 1, 0
    for i, layer in enumerate(layers):
        if not isinstance(layer, Sequence) or not 2 <= len(layer) <= 4:
            raise UserError(
                f'layers[{i}] must be (window, stride[, padding[, dilation]]), got {layer!r}'
            )
        window, stride, padding, dilation = (*layer, *(0, 1)[len(layer) - 2 :])
        checks.integer(window, f'layers[{i}] window', 1)
        checks.integer(stride, f'layers[{i}] stride', 1)
        checks.integer(padding, f'layers[{i}] padding')
        checks.integer(dilation, f'layers[{i}] dilation', 1)
        start -= padding * jump
        size += (dilated(window, dilation) - 1) * jump
        jump *= stride
    return ReceptiveField(size, jump, start)


def each_axis(**values: Any) -> list[tuple[int, ...]]:
    """Returns each argument, given by its name, with one int per axis; 1 axis if all are ints."""
    lengths = {
        len(v) for v in values.values() if isinstance(v, Sequence) and not isinstance(v, str)
    }
    n = max(lengths, default=1)
    return [checks.per_axis(value, n, name) for name, value in values.items()]


def _short(value: Any) -> str:
    """Formats a tuple as one value if all axes agree."""
    if isinstance(value, tuple) and len(set(value)) == 1:
        return str(value[0])
    return str(value)

"""A table of a model's layers: shapes, receptive field, cost, and the kernel that runs each."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from flax import nnx

from cnn_jax import nn
from cnn_jax.inspection import flops, layers
from cnn_jax.ops.geometry import ReceptiveField, receptive_field

_CONVOLUTIONS = (nnx.Conv, nnx.ConvTranspose, nn.ConvTranspose)
_NO_FIELD = (nnx.ConvTranspose, nn.ConvTranspose, nn.BlurPool)


@dataclasses.dataclass(frozen=True)
class LayerRow:
    """One layer, for a batch.

    Attributes:
        layer: shapes, parameters and multiply-adds for one example.
        padding: (lo, hi) per axis of a convolution, else ().
        field: receptive field of one output along the first spatial axis; None if the model is not
            a chain of layers (a residual block counts as its longer branch).
        bytes: size of the input, parameters and output of a batch in float32, each moved once.
        intensity: floating-point operations per byte.
        kernel: name of the kernel that runs a convolution, else ''.
    """

    layer: flops.Row
    padding: tuple[tuple[int, int], ...]
    field: ReceptiveField | None
    bytes: int
    intensity: float
    kernel: str


def rows(model: nnx.Module, input_shape: Sequence[int], batch_size: int = 1) -> list[LayerRow]:
    """Returns one row per layer, in order of execution; the model may be abstract."""
    modules = dict(flops.named_layers(model))
    fields = receptive_fields(model, input_shape)
    result = []
    for row in flops.summary(model, input_shape):
        kernel, padding = '', ()
        # Each layer is traced alone, because other layers and functions may convolve, too.
        if isinstance(modules[row.name], _CONVOLUTIONS):
            used = layers.forward_convolutions(modules[row.name], row.input_shape, batch_size)
            if used:  # else no kernel of this package knows it, such as one of complex numbers
                kernel, padding = used[0].implementation, used[0].spec.padding
        elements = batch_size * (math.prod(row.input_shape) + math.prod(row.output_shape))
        size = 4 * (elements + row.parameters)
        result.append(
            LayerRow(
                layer=row,
                padding=padding,
                field=fields.get(row.name),
                bytes=size,
                intensity=2 * row.macs * batch_size / size,
                kernel=kernel,
            )
        )
    return result


def receptive_fields(model: nnx.Module, input_shape: Sequence[int]) -> dict[str, ReceptiveField]:
    """Returns the receptive field after each layer of a chain, by the name of the layer.

    Covers the convolutions and pools at the start of the chain. The result is empty if the model is
    not a chain.
    """
    steps, found = [], {}
    size = tuple(input_shape[:-1])
    for name, layer in chain(model):
        if not size or isinstance(layer, _NO_FIELD):
            break
        before, size = size, nn.layers.size_after(layer, size)
        window = getattr(layer, 'kernel_size', getattr(layer, 'window_shape', None))
        if window is None:
            if size != before:  # it has windows of its own, as adaptive pooling does
                break
            continue
        strides = nn.sizes.per_axis(layer.strides or _default_stride(layer, window), len(window))
        dilation = getattr(layer, 'kernel_dilation', getattr(layer, 'dilation', 1))
        dilation = nn.sizes.per_axis(dilation or 1, len(window))
        low = _padding_before(layer, before[0], window[0], strides[0], dilation[0])
        steps.append((window[0], strides[0], low, dilation[0]))
        found[name] = receptive_field(steps)
    return found


def chain(model: nnx.Module) -> Iterator[tuple[str, Any]]:
    """Yields (name, layer) of a chain.

    For a residual block, these are the layers of its residual branch; for parallel branches, those
    of the branch with the largest windows.
    """
    top = getattr(model, 'layers', None)
    if isinstance(top, nn.Layers):
        yield from _flat(top, '')


def _flat(block: nn.Layers, prefix: str):
    items = block.items()
    if isinstance(block, nn.Concat):
        items = [max(items, key=lambda item: _reach(item[1]))]
    for name, layer in items:
        if isinstance(layer, nn.Layers):
            yield from _flat(layer, f'{prefix}{name}.')
        elif hasattr(layer, 'layer_instance'):  # Flax's SpectralNorm or WeightNorm
            yield f'{prefix}{name}.layer_instance', layer.layer_instance
        else:
            yield prefix + name, layer


def _reach(layer) -> int:
    """Returns by how much the windows of a branch, at stride 1, enlarge the receptive field."""
    if isinstance(layer, nn.Layers):
        return sum(_reach(inner) for _, inner in _flat(layer, ''))
    window = getattr(layer, 'kernel_size', getattr(layer, 'window_shape', (1,)))
    dilation = getattr(layer, 'kernel_dilation', getattr(layer, 'dilation', 1))
    return (window[0] - 1) * nn.sizes.per_axis(dilation or 1, len(window))[0]


def _default_stride(layer, window):
    return window if hasattr(layer, 'window_shape') else 1


def _padding_before(layer, size, window, stride, dilation) -> int:
    from cnn_jax.ops.spec import dilated, resolve_padding

    padding = layer.padding
    if isinstance(padding, Sequence) and not isinstance(padding, str):
        padding = (padding[0],)
    return resolve_padding(padding, (size,), (dilated(window, dilation),), (stride,))[0][0]


def text(table: Sequence[LayerRow], batch_size: int = 1) -> str:
    """Formats the table for a terminal, with totals."""
    width = max(22, *(len(row.layer.name) + 2 for row in table))
    head = (
        f'{"layer":<{width}}{"type":<16}{"output":<16}{"window":<9}{"stride":<8}{"padding":<12}'
        f'{"field":>6}{"parameters":>13}{"MACs":>15}{"MB":>9}{"FLOP/B":>9}  kernel'
    )
    lines = [head]
    for row in table:
        layer = row.layer
        field = row.field.size if row.field and layer.window else ''
        lines.append(
            f'{layer.name:<{width}}{layer.type:<16}{_times(layer.output_shape):<16}'
            f'{_times(layer.window):<9}{_short(layer.strides):<8}{_pairs(row.padding):<12}'
            f'{field:>6}{layer.parameters:>13,}{layer.macs:>15,}{row.bytes / 1e6:>9.2f}'
            f'{row.intensity:>9.2f}  {row.kernel}'.rstrip()
        )
    parameters = sum(row.layer.parameters for row in table)
    macs = sum(row.layer.macs for row in table)
    size = sum(row.bytes for row in table)
    lines.append(
        f'{"total":<{width + 67}}{parameters:>13,}{macs:>15,}{size / 1e6:>9.2f}'
        f'{2 * macs * batch_size / size:>9.2f}'
    )
    lines.append(
        'parameters and MACs (multiply-adds) for one example; MB and FLOP/B for a batch of '
        f'{batch_size} in float32; field: receptive field in input positions; '
        f'kernels on {jax.default_backend()}'
    )
    return '\n'.join(lines)


def as_dicts(table: Sequence[LayerRow]) -> list[dict[str, Any]]:
    """Converts the table to dicts for JSON."""
    return [
        dataclasses.asdict(row.layer)
        | {
            'padding': row.padding,
            'receptive_field': row.field and row.field.size,
            'bytes': row.bytes,
            'intensity': row.intensity,
            'kernel': row.kernel,
        }
        for row in table
    ]


def _times(sizes) -> str:
    return '×'.join(map(str, sizes))


def _short(values) -> str:
    return str(values[0]) if len(set(values)) == 1 else ','.join(map(str, values))


def _pairs(padding) -> str:
    return _short([str(lo) if lo == hi else f'{lo}:{hi}' for lo, hi in padding]) if padding else ''

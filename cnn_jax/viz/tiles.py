"""Pictures of arrays with channels: filters of a layer, feature maps of a network."""

import math
import textwrap
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.ticker import MaxNLocator

from cnn_jax.errors import UserError
from cnn_jax.viz.figures import DPI, new_figure, plain, save

MAX_FILTERS = 64
MAX_CURVES = 32
MAX_CHANNELS = 16
MAX_IMAGES = 8


def filters(kernel, path=None, *, title: str = '') -> Figure:
    """Draws the filters of one convolution.

    2-D kernels (H, W, in, out) are drawn as tiles, one per filter and input channel. 3-D kernels
    are drawn slice by slice. 1-D kernels (W, in, out) are drawn as curves, or as tiles if they have
    more than four input channels. The colour scale is symmetric about zero.

    Args:
        kernel: real array (*window, in, out) with one to three window axes.
        path: where to write the PNG.
        title: text above the picture.

    Raises:
        ValueError: the number of window axes is not one to three, or an axis is empty.
    """
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim not in (3, 4, 5) or kernel.size == 0:
        raise UserError(
            'kernel: expected (*window, in, out) with one to three window axes, none empty, got '
            f'shape {kernel.shape}'
        )
    if kernel.ndim == 3 and kernel.shape[1] <= 4:
        return save(_filter_curves(kernel, title), path)
    return save(_filter_tiles(kernel, title), path)


def _symmetric_limit(values) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _filter_curves(kernel, title):
    window, channels, count = kernel.shape
    shown = min(count, MAX_CURVES)
    columns = min(shown, 8)
    rows = math.ceil(shown / columns)
    figure = Figure(figsize=(1.45 * columns + 0.9, 1.15 * rows + 1.3), dpi=DPI)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    limit = 1.05 * _symmetric_limit(kernel)
    for index, axes in enumerate(grid.flat):
        if index >= shown:
            axes.set_axis_off()
            continue
        for channel in range(channels):
            axes.plot(np.arange(window), kernel[:, channel, index], linewidth=1)
        axes.axhline(0, color='grey', linewidth=0.5)
        axes.set_ylim(-limit, limit)
        label = axes.text(0.03, 0.04, str(index), transform=axes.transAxes, fontsize=7)
        label.set_bbox({'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.7, 'pad': 1})
        axes.tick_params(labelsize=7)
    figure.supxlabel('tap', fontsize=9)
    figure.supylabel('weight', fontsize=9)
    figure.suptitle(_filter_title(title, kernel, shown, min(channels, 4)), fontsize=10)
    figure.subplots_adjust(
        left=0.9 / (1.45 * columns + 0.9), right=0.99, bottom=0.6 / (1.15 * rows + 1.3),
        top=1 - 0.5 / (1.15 * rows + 1.3), wspace=0.08, hspace=0.1,
    )  # fmt: skip
    return figure


def _filter_tiles(kernel, title):
    shown = min(kernel.shape[-1], MAX_FILTERS)
    if kernel.ndim == 3:  # (W, in, out): one tile per filter, channels downwards
        tiles = kernel[:, :MAX_FILTERS, :shown].transpose(2, 1, 0)[:, None]
        what, shown_channels = (
            'rows of a tile are input channels',
            min(kernel.shape[1], MAX_FILTERS),
        )
    elif kernel.ndim == 4:
        shown_channels = min(kernel.shape[2], 4)
        tiles = kernel[:, :, :shown_channels, :shown].transpose(3, 2, 0, 1)
        what = 'tiles of a group are input channels'
    else:
        shown_channels = 1
        tiles = kernel[:, :, :, 0, :shown].transpose(3, 0, 1, 2)
        what = 'tiles of a group are slices in depth'
    count, channels, height, width = tiles.shape
    group = np.full((count, height, channels * (width + 1) - 1), np.nan)
    for channel in range(channels):
        start = channel * (width + 1)
        group[:, :, start : start + width] = tiles[:, channel]
    gap = 1 if channels == 1 else 2
    columns = _columns(count, group.shape[1:], gap)
    image = mosaic(group, columns, gap)
    limit = _symmetric_limit(kernel[..., :shown])
    figure = _wide_enough(image.shape, 6.5, 7.0)
    axes = figure.subplots()
    axes.set_facecolor('0.85')
    picture = axes.imshow(image, cmap='RdBu_r', vmin=-limit, vmax=limit, interpolation='nearest')
    rows = math.ceil(count / columns)
    axes.set_yticks(
        [row * (height + gap) + (height - 1) / 2 for row in range(rows)],
        [str(row * columns) for row in range(rows)],
        fontsize=8,
    )
    axes.set_ylabel('first filter of the row')
    axes.set_xticks([])
    if channels > 1 or kernel.ndim == 3:
        axes.set_xlabel(what)
    axes.set_title(_filter_title(title, kernel, shown, shown_channels), fontsize=10)
    figure.colorbar(picture, ax=axes, shrink=0.8).set_label('weight')
    return figure


def _filter_title(title, kernel, shown, shown_channels):
    window = '×'.join(map(str, kernel.shape[:-2])) + (' taps' if kernel.ndim == 3 else '')
    parts = [f'{kernel.shape[-1]} filters of {window}, input channels: {kernel.shape[-2]}']
    if shown < kernel.shape[-1]:
        parts.append(f'first {shown} filters')
    if shown_channels < kernel.shape[-2]:
        parts.append(f'first {shown_channels} channels')
    return f'{title}\n{"; ".join(parts)}' if title else '; '.join(parts)


def _columns(count, tile, gap):
    """Returns the number of columns that leaves the fewest gaps in a mosaic of about 4:3."""
    height, width = tile
    ideal = math.sqrt(count * (height + gap) / (width + gap) * 4 / 3)
    near = [c for c in range(1, count + 1) if ideal / 1.5 <= c <= ideal * 1.5] or [count]
    return min(near, key=lambda c: (-count % c, abs(c - ideal)))


def _wide_enough(shape, width, tallest):
    height = min(max(width * shape[0] / shape[1], 1.2), tallest)
    return new_figure(width + 1.2, height + 0.9)


def mosaic(tiles, columns: int, gap: int = 1) -> np.ndarray:
    """Arranges tiles (N, H, W) row by row in `columns` columns; fills the gaps with NaN."""
    count, height, width = tiles.shape
    rows = math.ceil(count / columns)
    image = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan)
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        image[top : top + height, left : left + width] = tile
    return image


def feature_maps(maps: Mapping[str, np.ndarray], images, path=None, *, title: str = '') -> Figure:
    """Draws the output of each layer for a few inputs: one row per layer, one column per input.

    Args:
        maps: layer name -> (N, H, W, C) maps (the first 16 channels are tiled), (N, W, C) sequences
            (channels downwards) or (N, F) vectors. Each layer has one colour scale.
        images: the N inputs: (N, H, W, 1 or 3) images with any range of values, (N, W) or
            (N, W, 1) signals, or N strings. At most the first 8 are drawn.
        path: where to write the PNG.
        title: text above the picture.

    Raises:
        ValueError: there is no layer, the first axis of a layer is not N, or a number of axes is
            not supported.
    """
    images = np.asarray(images)
    texts = images.dtype.kind == 'U' and images.ndim == 1
    if not (texts or images.ndim in (2, 3, 4)) or len(images) == 0:
        raise UserError(
            'images: expected (N, H, W, C), (N, W, 1) or (N, W) inputs, or N texts, got shape '
            f'{images.shape}'
        )
    maps = {name: np.asarray(value, np.float64) for name, value in maps.items()}
    if not maps:
        raise UserError('maps: expected at least one layer')
    for name, value in maps.items():
        if value.ndim not in (2, 3, 4) or len(value) != len(images):
            raise UserError(
                f'maps[{name!r}]: expected ({len(images)}, H, W, C), ({len(images)}, W, C) or '
                f'({len(images)}, F), got shape {value.shape}'
            )
    count = min(len(images), MAX_IMAGES)
    figure = new_figure(1.7 * count + 1.6, 1.55 * (len(maps) + 1) + 0.5)
    grid = figure.subplots(len(maps) + 1, count, squeeze=False)
    for index in range(count):
        draw_input(grid[0, index], images[index])
    grid[0, 0].set_ylabel('input', fontsize=8)
    for row, (name, value) in zip(grid[1:], maps.items(), strict=True):
        picture = _map_row(row, value[:count])
        shape = '×'.join(map(str, value.shape[1:]))
        if value.ndim == 4 and value.shape[-1] > MAX_CHANNELS:
            shape += f'\n(first {MAX_CHANNELS})'
        row[0].set_ylabel(f'{name}\n{shape}', fontsize=8)
        if picture is not None:
            figure.colorbar(picture, ax=list(row), shrink=0.9, pad=0.01).ax.tick_params(labelsize=7)
    if title:
        figure.suptitle(plain(title), fontsize=11)
    return save(figure, path)


def _map_row(row, value):
    """Draws one layer; returns the mappable of the shared colour scale, or None for vectors."""
    finite = value[np.isfinite(value)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    picture = None
    for axes, one in zip(row, value, strict=True):
        if one.ndim == 1:
            edges = np.arange(len(one) + 1) - 0.5
            # `stairs` would look for the limits along every line, at several times the cost.
            axes.add_artist(StepPatch(one, edges, fill=True, facecolor='C0'))
            axes.set_xlim(edges[0], edges[-1])
            axes.set_ylim(min(low, 0), max(high, 0) + 1e-12)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.tick_params(labelsize=6, labelleft=axes is row[0])
            continue
        if one.ndim == 3:
            tiles = one[:, :, :MAX_CHANNELS].transpose(2, 0, 1)
            shown, aspect = mosaic(tiles, math.ceil(math.sqrt(len(tiles)))), 'equal'
        else:
            shown, aspect = one.T, 'auto'
        picture = axes.imshow(
            shown, cmap='viridis', vmin=low, vmax=high, aspect=aspect, interpolation='nearest'
        )
        axes.set_xticks([])
        axes.set_yticks([])
    return picture


def draw_input(axes, one) -> None:
    """Draws one input on `axes`: an image scaled to its own range, a signal as a curve, or text."""
    if isinstance(one, str):
        shown = '\n'.join(textwrap.wrap(one, 22, max_lines=8, placeholder=' ...'))
        axes.text(0.5, 0.5, shown, ha='center', va='center', fontsize=7, parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
    elif one.ndim == 3:
        axes.imshow(displayable(one), cmap='gray', interpolation='nearest')
        axes.set_xticks([])
        axes.set_yticks([])
    else:
        axes.plot(one.reshape(len(one), -1)[:, 0], linewidth=0.8)
        axes.tick_params(labelsize=6)


def displayable(image) -> np.ndarray:
    """Scales an image (H, W, C) to [0, 1]; keeps three channels as colour, else only the first."""
    image = np.asarray(image, np.float64)
    image = image if image.shape[-1] == 3 else image[..., 0]
    low, high = np.nanmin(image), np.nanmax(image)
    return (image - low) / (high - low) if high > low else np.zeros_like(image)

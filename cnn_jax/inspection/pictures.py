"""Pictures of the results of `inspection`. Each function writes a PNG if `path` is given."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cnn_jax.errors import optional_packages

with optional_packages('viz'):
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

from cnn_jax.inspection.attribution import Patch
from cnn_jax.ops.geometry import ReceptiveField
from cnn_jax.viz.figures import new_figure, save
from cnn_jax.viz.tiles import displayable


def attention(images, saliency, cams: Mapping[str, np.ndarray], titles, path=None) -> Figure:
    """Draws one column per image: the image, its saliency, and Grad-CAM over it for some layers.

    Args:
        images: (N, H, W, C) with any range of values.
        saliency: (N, H, W).
        cams: layer -> (N, h, w).
        titles: N titles.
    """
    rows = 2 + len(cams)
    figure = new_figure(1.75 * len(images) + 0.9, 1.75 * rows + 0.5)
    grid = figure.subplots(rows, len(images), squeeze=False)
    height, width = images.shape[1:3]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    limit = float(saliency.max()) or 1.0
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        grid[0, column].imshow(displayable(image), cmap='gray')
        grid[0, column].set_title(title, fontsize=8)
        drawn = grid[1, column].imshow(saliency[column], cmap='magma', vmin=0, vmax=limit)
        for axes, cam in zip(grid[2:, column], cams.values(), strict=True):
            axes.imshow(displayable(image), cmap='gray')
            heat = cam[column] / (cam[column].max() or 1.0)
            over = axes.imshow(heat, cmap='jet', vmin=0, vmax=1, alpha=0.5, extent=extent)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, label in zip(grid[:, 0], ['input', 'saliency', *cams], strict=True):
        name = label if label in ('input', 'saliency') else f'Grad-CAM\n{label}'
        axes.set_ylabel(name, fontsize=8)
    figure.colorbar(drawn, ax=list(grid[1])).set_label('|d logit / d input|', fontsize=8)
    for row in grid[2:]:
        figure.colorbar(over, ax=list(row)).set_label('share of maximum', fontsize=8)
    return save(figure, path)


def patches(images, found: Mapping[int, Sequence[Patch]], path=None, *, title: str = '') -> Figure:
    """Draws one row per channel: the patches that activate it most, strongest first.

    Args:
        images: (N, H, W, C) inputs with any range of values.
        found: result of `attribution.best_patches`.
    """
    columns = max(len(some) for some in found.values())
    figure = new_figure(0.95 * columns + 0.8, 1.05 * len(found) + 0.6)
    grid = figure.subplots(len(found), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    low, high = float(np.min(images)), float(np.max(images))
    for row, (channel, some) in zip(grid, found.items(), strict=True):
        row[0].set_ylabel(f'channel {channel}', fontsize=7)
        for axes, patch in zip(row, some, strict=False):
            bounds = tuple(slice(a, b) for a, b in zip(patch.low, patch.high, strict=True))
            part = (np.asarray(images[patch.example][bounds], np.float64) - low) / (high - low)
            axes.imshow(part if part.shape[-1] == 3 else part[..., 0], cmap='gray', vmin=0, vmax=1)
            axes.set_title(f'#{patch.example}: {patch.value:.3g}', fontsize=6, pad=2)
        for axes in row[len(some) :]:
            axes.set_axis_off()
    figure.suptitle(
        f'{title}\n#example: activation' if title else '#example: activation', fontsize=9
    )
    return save(figure, path)


def receptive_fields(
    image, fields: Mapping[str, ReceptiveField], effective: Mapping[str, np.ndarray],
    positions: Mapping[str, tuple[int, int]], path=None,
) -> Figure:  # fmt: skip
    """Draws one panel per layer: the theoretical and the effective receptive field on an image.

    A frame marks the theoretical field of the layer's middle output, and colours show how strongly
    each position affects it.

    Args:
        image: (H, W, C) with any range of values.
        fields: layer -> receptive field, the same on both axes.
        effective: layer -> (H, W), with maximum 1.
        positions: layer -> position of the output.
    """
    columns = min(len(fields), 5)
    rows = math.ceil(len(fields) / columns)
    figure = new_figure(2.3 * columns + 1.0, 2.55 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False)
    height, width = image.shape[:2]
    for axes in grid.flat[len(fields) :]:
        axes.set_axis_off()
    for axes, (name, field) in zip(grid.flat, fields.items(), strict=False):
        axes.imshow(displayable(image), cmap='gray')
        heat = effective[name]
        drawn = axes.imshow(heat, cmap='hot', vmin=0, vmax=1, alpha=0.65)
        corner = [field.start + field.stride * p - 0.5 for p in positions[name]]
        axes.add_patch(
            Rectangle(
                corner[::-1], field.size, field.size, fill=False, edgecolor='cyan', linewidth=1.5
            )
        )
        margin = 0.25 * max(height, width)
        axes.set_xlim(-margin, width + margin)
        axes.set_ylim(height + margin, -margin)
        axes.set_title(f'{name}\n{field.size}×{field.size}, step {field.stride}', fontsize=8)
        axes.tick_params(labelsize=6)
    figure.suptitle('receptive field of the middle output: frame = theory (pixels)', fontsize=10)
    bar = figure.colorbar(drawn, ax=list(grid.flat), shrink=0.8)
    bar.set_label('|d output / d input|, share of maximum', fontsize=8)
    return save(figure, path)


def examples(images, titles: Sequence[str], path=None, *, title: str = '') -> Figure:
    """Draws inputs in a grid, each with a title: images, or signals as curves."""
    columns = min(len(images), 6)
    rows = math.ceil(len(images) / columns)
    figure = new_figure(1.6 * columns + 0.2, 1.85 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, image, text in zip(grid.flat, images, titles, strict=False):
        if image.ndim == 3:
            axes.imshow(displayable(image), cmap='gray')
        else:
            axes.plot(image.reshape(len(image), -1)[:, 0], linewidth=0.7)
        axes.set_title(text, fontsize=7)
    for axes in grid.flat[len(images) :]:
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=10)
    return save(figure, path)

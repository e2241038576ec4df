"""Pictures of a run that generates images: samples, reconstructions, interpolations, classes.

A run saves the images that it draws as arrays: `grids/step-*.npz` (samples, inputs,
reconstructions) and `grids/final.npz` (interpolations). To draw several runs in one picture:

    python -m cnn_jax.viz.samples OUTPUT.png WORKDIR...
"""

import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cnn_jax.errors import UserError, first_line
from cnn_jax.viz.figures import new_figure, plain, save

GAP = 2
ROWS, COLUMNS = 6, 10  # of a picture of several steps


def save_step(
    folder: pathlib.Path, step: int, epoch: float, shown: Mapping[str, np.ndarray]
) -> None:
    """Saves and draws the images that a model generates after `step` steps.

    Args:
        folder: folder of the run.
        step: number of steps.
        epoch: number of epochs.
        shown: `samples`, or `inputs` and `reconstructions`, or all three: uint8 (N, H, W, C), N at
            most 64.
    """
    (folder / 'grids').mkdir(parents=True, exist_ok=True)
    np.savez(folder / 'grids' / f'step-{step:08d}.npz', epoch=epoch, **shown)
    title = f'step {step}, epoch {epoch:.4g}'
    if 'samples' in shown:
        path = folder / 'pictures' / f'samples-{step:08d}.png'
        rows(_square(shown['samples']), [], path, title=f'samples, {title}')
    if 'reconstructions' in shown:
        path = folder / 'pictures' / f'reconstructions-{step:08d}.png'
        draw_pairs(shown, path, title=f'test images and their reconstructions, {title}')


def save_final(
    folder: pathlib.Path,
    interpolations: np.ndarray,
    result: Mapping[str, Any],
    class_names: Sequence[str],
) -> None:
    """Saves interpolations; draws them, the training progress, and the classes of the samples.

    Args:
        folder: folder of the run.
        interpolations: uint8 (rows, columns, H, W, C).
        result: result of the run; the `classes` of `samples` and `images` are drawn if present.
        class_names: one name per class.
    """
    (folder / 'grids').mkdir(parents=True, exist_ok=True)
    np.savez(folder / 'grids' / 'final.npz', interpolations=interpolations)
    drawn = folder / 'pictures'
    rows(interpolations, [], drawn / 'interpolations.png', title='from one code to another')
    rows(*_progress(folder), drawn / 'progress.png', title='the same codes during training')
    counts = {
        what: result[key]['classes']
        for key, what in (('images', 'test images'), ('samples', 'samples'))
        if key in result
    }
    if 'samples' in counts:
        classes(counts, class_names, drawn / 'classes.png')


def rows(images: np.ndarray, labels: Sequence[str], path=None, *, title: str = '') -> Figure:
    """Draws images in rows.

    Args:
        images: uint8 (R, K, H, W, C), with C 1 or 3.
        labels: R labels next to the rows, or none.
        path: where to write the PNG.
        title: text above the picture.

    Raises:
        ValueError: wrong shape, or wrong number of labels.
    """
    images = np.asarray(images)
    if images.ndim != 5 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise UserError(f'images: expected (R, K, H, W, 1 or 3), got shape {images.shape}')
    if len(labels) not in (0, len(images)):
        raise UserError(f'labels: expected {len(images)}, got {len(labels)}')
    tiled = tile(images)
    width = 6.0
    height = min(max(width * tiled.shape[0] / tiled.shape[1], 0.6), 9.0)
    figure = new_figure(width + (1.0 if labels else 0.2), height + 0.45)
    draw_rows(figure.subplots(), images, labels, title)
    return save(figure, path)


def draw_rows(axes: Axes, images: np.ndarray, labels: Sequence[str], title: str) -> None:
    """Draws `rows` on `axes`."""
    tall = images.shape[2] + GAP
    axes.imshow(tile(images), cmap='gray', vmin=0, vmax=255)
    axes.set_xticks([])
    ticks = [row * tall + (tall - GAP - 1) / 2 for row in range(len(labels))]
    axes.set_yticks(ticks, list(labels), fontsize=8)
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=10)
    axes.set_anchor('N')


def draw_pairs(shown: Mapping[str, np.ndarray], path=None, *, title: str = '') -> Figure:
    """Draws three rows of inputs above their reconstructions, `COLUMNS` per row."""
    return rows(*_pairs(shown, 3), path, title=title)


def tile(images: np.ndarray) -> np.ndarray:
    """Tiles (R, K, H, W, C) to one image with white gaps, (height, width) or (height, width, 3)."""
    count, columns, height, width, channels = images.shape
    framed = np.full((count, columns, height + GAP, width + GAP, channels), 255, np.uint8)
    framed[:, :, :height, :width] = images
    whole = framed.swapaxes(1, 2).reshape(count * (height + GAP), columns * (width + GAP), -1)
    whole = whole[:-GAP, :-GAP]
    return whole if channels == 3 else whole[..., 0]


def classes(counts: Mapping[str, Sequence[int]], names: Sequence[str], path=None) -> Figure:
    """Draws the distribution of classes that a classifier predicts for images.

    Args:
        counts: kind of images -> number of images of each class.
        names: names of the classes.
        path: where to write the PNG.
    """
    figure = new_figure(6.0, 3.0)
    draw_classes(figure.subplots(), counts, names)
    return save(figure, path)


def draw_classes(axes: Axes, counts: Mapping[str, Sequence[int]], names: Sequence[str]) -> None:
    """Draws `classes` on `axes`."""
    wide = 0.8 / len(counts)
    colours = ('0.7', 'tab:blue')
    for index, (what, values) in enumerate(counts.items()):
        values = np.asarray(values, np.float64)
        places = np.arange(len(values)) + (index - (len(counts) - 1) / 2) * wide
        axes.bar(places, 100 * values / values.sum(), wide, label=what, color=colours[index % 2])
    turned = max(map(len, names)) > 2
    axes.set_xticks(
        range(len(names)), list(map(plain, names)), rotation=45 if turned else 0, fontsize=8
    )
    if turned:
        for label in axes.get_xticklabels():
            label.set(ha='right', rotation_mode='anchor')
    axes.set_ylabel('share (%)', fontsize=8)
    axes.tick_params(axis='y', labelsize=8)
    axes.set_title('classes, as a classifier sees them', fontsize=10)
    axes.margins(y=0.2)  # room for the legend
    axes.legend(fontsize=8, loc='upper right', ncols=len(counts))


def overview(folders: Sequence[pathlib.Path], path=None) -> Figure:
    """Draws one row of panels per run: progress, reconstructions or samples, interpolations.

    Raises:
        ValueError: a folder contains no finished run that generates images.
    """
    runs = [(folder, _result(folder)) for folder in folders]
    figure = new_figure(12.0, 2.75 * len(runs))
    for part, (folder, result) in zip(
        figure.subfigures(len(runs), 1, squeeze=False)[:, 0], runs, strict=True
    ):
        part.suptitle(_headline(result), fontsize=10)
        last, final = _steps(folder)[-1][1], read_grid(folder / 'grids' / 'final.npz')
        left, middle, right = part.subplots(1, 3)
        draw_rows(left, *_progress(folder), 'the same codes during training')
        if 'reconstructions' in last:
            draw_rows(middle, *_pairs(last, 3), 'test images and reconstructions')
        else:
            draw_rows(
                middle,
                last['samples'][:60].reshape(6, 10, *last['samples'].shape[1:]),
                [],
                'samples at the end',
            )
        draw_rows(right, final['interpolations'], [], 'from one code to another')
    return save(figure, path, colours=48)


def _headline(result: Mapping[str, Any]) -> str:
    parts, test = [result['model']], result['test']
    if 'divergence' in test:
        parts.append(f'test ELBO {-test["loss"]:.1f} nats an image')
    elif 'loss' in test:
        parts.append(f'test cross-entropy {test["loss"]:.1f} nats an image')
    if 'samples' in result:
        found = result['samples']
        parts.append(
            f'samples: confidence {found["confidence"]:.2f} (test images '
            f'{result["images"]["confidence"]:.2f}), classes {math.exp(found["entropy"]):.1f} of '
            f'{len(found["classes"])}'
        )
    return '; '.join(parts)


def _result(folder: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((folder / 'result.json').read_text())
    except FileNotFoundError:
        raise UserError(f'{str(folder)!r} holds no finished run that generates images') from None


def read_grid(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with np.load(file) as arrays:
            return dict(arrays)
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy each raise their own errors
        raise UserError(f'{file} cannot be read: {first_line(error)}') from error


def _steps(folder: pathlib.Path) -> list[tuple[int, Mapping[str, np.ndarray]]]:
    files = sorted((folder / 'grids').glob('step-*.npz'))
    if not files:
        raise UserError(f'{str(folder)!r} holds no run that generates images')
    return [(int(file.stem.removeprefix('step-')), read_grid(file)) for file in files]


def _progress(folder: pathlib.Path) -> tuple[np.ndarray, list[str]]:
    """Returns the first images at up to six evenly spaced steps, and labels for the rows."""
    steps = _steps(folder)
    chosen = np.unique(np.linspace(0, len(steps) - 1, ROWS).round().astype(int))
    kind = 'samples' if 'samples' in steps[0][1] else 'reconstructions'
    images = np.stack([steps[i][1][kind][:COLUMNS] for i in chosen])
    return images, [f'epoch {round(float(steps[i][1]["epoch"]), 1):g}' for i in chosen]


def _pairs(shown: Mapping[str, np.ndarray], count: int) -> tuple[np.ndarray, list[str]]:
    columns = min(COLUMNS, len(shown['inputs']))
    count = min(count, len(shown['inputs']) // columns)
    both = [shown[name][: count * columns] for name in ('inputs', 'reconstructions')]
    shape = both[0].shape[1:]
    paired = np.stack([each.reshape(count, columns, *shape) for each in both], axis=1)
    return paired.reshape(2 * count, columns, *shape), ['image', 'decoded'] * count


def _square(images: np.ndarray) -> np.ndarray:
    side = math.isqrt(len(images))
    return images[: side * side].reshape(side, side, *images.shape[1:])


if __name__ == '__main__':
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        overview([pathlib.Path(folder) for folder in sys.argv[2:]], sys.argv[1])
    except UserError as error:
        sys.exit(f'error: {error}')

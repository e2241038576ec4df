"""Pictures of segmentation: images beside their true and predicted masks, in colours.

Labels that are not those of a class (255: a pixel that does not count) are white.
"""

import os
from collections.abc import Sequence

import numpy as np
import PIL.Image
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cnn_jax.errors import UserError
from cnn_jax.viz.figures import new_figure, plain, save
from cnn_jax.viz.tiles import displayable

MAX_ROWS = 8
MAX_LEGEND = 40
STRENGTH = 0.6  # share of a class's colour in an overlay
_WHITE = (1.0, 1.0, 1.0)


def colours(count: int) -> np.ndarray:
    """Returns a colour for each class, (count, 3) float in [0, 1].

    Class 0, usually the background, is black. The hues of the others are a golden section apart, so
    that neighbours differ.
    """
    hues = np.arange(max(count - 1, 0)) * (5**0.5 - 1) / 2 % 1
    values = np.where(np.arange(len(hues)) % 2, 0.75, 1.0)
    bright = hsv_to_rgb(np.stack([hues, np.full_like(hues, 0.9), values], -1))
    return np.concatenate([np.zeros((1, 3)), bright])[:count]


def paint(mask: np.ndarray, count: int) -> np.ndarray:
    """Returns a mask (H, W) of labels in the colours of `count` classes, (H, W, 3) float."""
    table = np.concatenate([colours(count), [_WHITE]])
    return table[np.minimum(mask, count)]


def overlay(image: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
    """Returns an image (H, W, 1 or 3) under the colours of its mask, (H, W, 3) float in [0, 1].

    Pixels of class 0 are shown as they are.
    """
    grey = displayable(image)
    under = grey if grey.ndim == 3 else grey[..., None].repeat(3, -1)
    share = np.where(np.asarray(mask)[..., None] == 0, 0.0, STRENGTH)
    return (1 - share) * under + share * paint(mask, count)


def save_mask(mask: np.ndarray, count: int, path: str | os.PathLike) -> None:
    """Writes a mask (H, W) as a PNG whose pixels are the labels, shown in colours by a palette.

    The palette has the colours of `count` classes; other labels are white.
    """
    image = PIL.Image.fromarray(np.asarray(mask, np.uint8), 'P')
    table = paint(np.arange(256), count)
    image.putpalette(np.round(255 * table).astype(np.uint8).tobytes())
    image.save(path, 'PNG', optimize=True)


def draw(
    images: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    class_names: Sequence[str],
    path=None,
    *,
    title: str = '',
) -> Figure:
    """Draws each image, its true mask and its predicted mask in one row, and a legend.

    Args:
        images: (N, H, W, 1 or 3) with any range of values. At most the first 8 are drawn.
        labels: true masks (N, H, W).
        predicted: predicted masks (N, H, W), or (N, H', W') for the centre of the images.
        class_names: one name per class. The legend lists the classes that are drawn.
        path: where to write the PNG.
        title: text above the picture.

    Raises:
        UserError: the arrays do not belong together, or are empty.
    """
    images, labels, predicted = (np.asarray(a) for a in (images, labels, predicted))
    if images.ndim != 4 or not len(images) or labels.shape != images.shape[:3]:
        raise UserError(
            'images and labels: expected (N, H, W, C) and (N, H, W), none empty, got shapes '
            f'{images.shape} and {labels.shape}'
        )
    margins = [a - b for a, b in zip(labels.shape[1:], predicted.shape[1:], strict=False)]
    if predicted.ndim != 3 or len(predicted) != len(labels) or min(margins) < 0:
        raise UserError(
            f'predicted: expected (N, H, W) as labels {labels.shape}, got shape {predicted.shape}'
        )
    around = [(m // 2, m - m // 2) for m in margins]
    predicted = np.pad(predicted, [(0, 0), *around], constant_values=255)
    shown = min(len(images), MAX_ROWS)
    count = len(class_names)
    figure = new_figure(7.2, 1.75 * shown * images.shape[1] / images.shape[2] + 0.5)
    grid = figure.subplots(shown, 3, squeeze=False)
    for row, image, true, said in zip(grid, images, labels, predicted, strict=False):
        row[0].imshow(displayable(image), cmap='gray', interpolation='nearest')
        row[1].imshow(overlay(image, true, count), interpolation='nearest')
        row[2].imshow(overlay(image, said, count), interpolation='nearest')
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, name in zip(grid[0], ('image', 'label', 'prediction'), strict=True):
        axes.set_title(name, fontsize=9)
    _legend(figure, np.concatenate([labels[:shown], predicted[:shown]]), class_names)
    if title:
        figure.suptitle(plain(title), fontsize=11)
    return save(figure, path)


def _legend(figure: Figure, masks: np.ndarray, class_names: Sequence[str]) -> None:
    """Adds the colours of the classes in `masks`; class 0 has none in an overlay."""
    table = colours(len(class_names))
    found = [c for c in np.unique(masks) if 0 < c < len(class_names)][:MAX_LEGEND]
    patches = [Patch(color=table[c], label=plain(class_names[c])) for c in found]
    if (masks >= len(class_names)).any():
        patches.append(Patch(facecolor=_WHITE, edgecolor='grey', label='(not counted)'))
    if patches:
        figure.legend(handles=patches, loc='outside right upper', fontsize=8)

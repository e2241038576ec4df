"""Decodes the masks of semantic segmentation: images whose pixels are labels."""

import numpy as np
import PIL.Image
import PIL.ImageOps

from cnn_jax.data import images
from cnn_jax.data.dataset import IGNORE
from cnn_jax.errors import UserError, first_line

_PALETTE_OR_GREY = ('P', 'L', '1')


def decode(file, size: int = 0) -> np.ndarray:
    """Decodes a mask to labels, uint8 (H, W).

    The label of a pixel is its index in the palette or its grey value. The EXIF orientation is
    applied. If `size` is given, the mask is cropped to a centred square and resized with
    nearest-neighbour interpolation, which leaves labels as they are; `images.decode` crops alike.

    Args:
        file: a path, or a binary file object.
        size: height and width of the result; 0 keeps the size of the mask.

    Raises:
        ValueError: the file is not an image, is damaged or too large, or is in colour or has more
            than 8 bits per pixel.
    """
    where = images.name_of(file, 'a mask')
    try:
        with PIL.Image.open(file) as opened:
            mask = PIL.ImageOps.exif_transpose(opened)
            if mask.mode not in _PALETTE_OR_GREY:
                raise UserError(
                    f'{where}: mode {mask.mode}; the pixels of a mask must be labels: an image '
                    'with a palette, or grey with 8 bits'
                )
            if size:
                mask = images.fit(mask, size, PIL.Image.Resampling.NEAREST)
            return np.asarray(mask).astype(np.uint8)
    except UserError:
        raise
    except Exception as error:  # damaged files raise many types of error
        raise UserError(f'{where}: not a mask that can be read ({first_line(error)})') from error


def check(mask: np.ndarray, num_classes: int, where: str) -> None:
    """Checks that every label of `mask` (H, W) is in [0, num_classes) or IGNORE.

    Raises:
        UserError: another label; the message names `where` and the first such pixel.
    """
    bad = np.argwhere((mask >= num_classes) & (mask != IGNORE))
    if bad.size:
        row, column = bad[0]
        raise UserError(
            f'{where}: label {mask[row, column]} at row {row}, column {column}; it must be in '
            f'0..{num_classes - 1}, or {IGNORE} for a pixel that does not count'
        )


def names_of(masks: np.ndarray, where: str) -> tuple[str, ...]:
    """Returns '0', '1', ... up to the largest label of the masks, for masks without class names.

    Raises:
        UserError: there are fewer than two labels; then 255 probably means a class.
    """
    labels = np.flatnonzero(np.bincount(masks.ravel(), minlength=IGNORE + 1)[:IGNORE])
    if len(labels) == 0 or labels[-1] == 0:
        raise UserError(
            f'{where}: the only labels are 0 and {IGNORE}, and {IGNORE} means that a pixel does '
            'not count; number the classes from 0'
        )
    return tuple(map(str, range(labels[-1] + 1)))

"""Encoded images as uint8 arrays of one size and number of channels."""

import numpy as np
import PIL.Image
import PIL.ImageOps

from cnn_jax.errors import UserError, first_line

_MODES = {1: 'L', 3: 'RGB'}
_EIGHT_BITS = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr')


def decode(file, channels: int = 3, size: int = 0) -> np.ndarray:
    """An image file as uint8 (H, W, channels).

    Images of another mode are converted: palettes, CMYK and YCbCr to RGB, grey to three equal
    channels, colour to grey by ITU-R 601 luma; of 16 bits the upper 8 are kept, transparency is
    dropped. The orientation in EXIF data is applied. To a given size: the longer side is cropped
    about the middle, and what is left resized (bilinear, with averaging where it shrinks).

    Args:
        file: a path, or a binary file object.
        channels: 1 or 3.
        size: both sides of the result; 0 leaves the image's own.

    Raises:
        ValueError: not an image, a damaged one, or of floating-point or 32-bit samples.
    """
    where = getattr(file, 'name', file) if not hasattr(file, 'getvalue') else 'an image'
    try:
        with PIL.Image.open(file) as image:
            kind = image.format
            image = PIL.ImageOps.exif_transpose(image)  # as a viewer shows it
            if image.mode.startswith('I;16') or (image.mode == 'I' and kind == 'PNG'):
                image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode not in _EIGHT_BITS:
                raise UserError(
                    f'{where}: mode {image.mode}; only 8 or 16 bits per channel can be read'
                )
            if image.mode != _MODES[channels]:
                image = image.convert(_MODES[channels])
            if size:
                image = _square(image, size)
            array = np.asarray(image)
    except UserError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise UserError(f'{where}: too large to be decoded ({error})') from error
    except Exception as error:  # the decoders raise whatever a damaged file makes them meet
        raise UserError(f'{where}: not an image that can be read ({first_line(error)})') from error
    return array if array.ndim == 3 else array[..., None]


def _square(image: PIL.Image.Image, size: int) -> PIL.Image.Image:
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if width != height:
        image = image.crop((left, top, left + side, top + side))
    if side == size:
        return image
    return image.resize((size, size), PIL.Image.Resampling.BILINEAR)

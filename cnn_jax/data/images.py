"""Decodes images to uint8 arrays with a given size and number of channels."""

import os

import numpy as np
import PIL.Image
import PIL.ImageOps

from cnn_jax.errors import UserError, first_line

_MODES = {1: 'L', 3: 'RGB'}
_EIGHT_BITS = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr')


def decode(file, channels: int = 3, size: int | tuple[int, int] = 0) -> np.ndarray:
    """Decodes an image file to uint8 (H, W, channels).

    Images in other modes are converted. Palette, CMYK and YCbCr images become RGB; grey images get
    three equal channels; colour becomes grey by ITU-R 601 luma. The upper 8 of 16 bits are kept,
    and transparency is dropped. The EXIF orientation is applied. If `size` is given, the image is
    cropped about its centre to the shape of the result and resized with bilinear interpolation,
    antialiased when shrinking.

    Args:
        file: a path, or a binary file object.
        channels: 1 or 3.
        size: height and width of the result, or one number for both; 0 keeps the size of the image.

    Raises:
        ValueError: the file is not an image, is damaged or too large, or has floating-point or
            32-bit samples.
    """
    where = name_of(file, 'an image')
    try:
        with PIL.Image.open(file) as image:
            kind = image.format
            PIL.ImageOps.exif_transpose(image, in_place=True)  # rotate as image viewers do
            if image.mode.startswith('I;16') or (image.mode == 'I' and kind == 'PNG'):
                image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode not in _EIGHT_BITS:
                raise UserError(
                    f'{where}: mode {image.mode}; only 8 or 16 bits per channel can be read'
                )
            if image.mode != _MODES[channels]:
                image = image.convert(_MODES[channels])
            if size:
                image = fit(image, size)
            array = np.asarray(image)
    except UserError:
        raise
    except PIL.Image.DecompressionBombError as error:
        raise UserError(f'{where}: too large to be decoded ({error})') from error
    except Exception as error:  # damaged files raise many types of error
        raise UserError(f'{where}: not an image that can be read ({first_line(error)})') from error
    return array if array.ndim == 3 else array[..., None]


SAMPLES = ('china', 'flower')  # photographs that scikit-learn brings


def picture(name, size: int) -> np.ndarray:
    """Reads a photograph to be looked at.

    Args:
        name: an image file, or one of `SAMPLES`.
        size: pixels of the longer side; larger images are scaled down.

    Returns:
        (height, width, 3) float32 in [0, 1].

    Raises:
        ValueError: as in `decode`.
    """
    if name in SAMPLES:
        from sklearn.datasets import load_sample_image

        image = PIL.Image.fromarray(load_sample_image(f'{name}.jpg'))
    else:
        image = PIL.Image.fromarray(decode(name))
    image.thumbnail((size, size))
    return np.asarray(image, np.float32) / 255


def name_of(file, otherwise: str) -> str:
    """Returns the path of a file for messages; `otherwise` for a file object without a name."""
    path = isinstance(file, str | os.PathLike)
    return str(file if path else getattr(file, 'name', otherwise))


def fit(
    image: PIL.Image.Image,
    size: int | tuple[int, int],
    resampling: PIL.Image.Resampling = PIL.Image.Resampling.BILINEAR,
) -> PIL.Image.Image:
    """Crops `image` about its centre to the shape of `size`, and resizes it.

    `size` is (height, width), or one number for both.
    """
    height, width = (size, size) if isinstance(size, int) else size
    scale = min(image.width / width, image.height / height)
    wide, high = round(width * scale), round(height * scale)
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    if (wide, high) != image.size:
        image = image.crop((left, top, left + wide, top + high))
    if (wide, high) == (width, height):
        return image
    return image.resize((width, height), resampling)


_ORIENTATION = 0x0112  # EXIF tag; values from 5 mean that rows and columns are exchanged


def size_of(path) -> tuple[int, int]:
    """Returns the height and width of an image file as `decode` shows it, without decoding it.

    Raises:
        ValueError: the file is not an image.
    """
    try:
        with PIL.Image.open(path) as image:
            width, height = image.size
            return (width, height) if image.getexif().get(_ORIENTATION, 1) > 4 else (height, width)
    except Exception as error:  # damaged files raise many types of error
        raise UserError(f'{path}: not an image that can be read ({first_line(error)})') from error

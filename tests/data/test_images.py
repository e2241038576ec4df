import io

import numpy as np
import PIL.Image
import pytest

from cnn_jax.data import images


def stored(pixels, mode, form='PNG'):
    out = io.BytesIO()
    image = PIL.Image.fromarray(pixels)
    (image.quantize() if mode == 'P' else image.convert(mode)).save(out, form)
    out.seek(0)
    return out


RED = np.zeros((4, 6, 3), np.uint8) + np.array([200, 30, 60], np.uint8)

NOISE = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P', 'CMYK'])
def test_modes_with_colour_become_rgb(mode):
    form = 'TIFF' if mode == 'CMYK' else 'PNG'
    np.testing.assert_array_equal(images.decode(stored(RED, mode, form)), RED)


def test_grey_and_colour_are_converted_both_ways():
    grey = images.decode(stored(RED, 'L'), channels=1)
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B, rounded.
    assert grey.shape == (4, 6, 1) and set(grey.flat) == {84}
    np.testing.assert_array_equal(images.decode(stored(RED, 'RGB'), channels=1), grey)
    np.testing.assert_array_equal(images.decode(stored(RED, 'L')), np.repeat(grey, 3, axis=2))


def test_the_middle_is_kept_when_an_image_is_made_square():
    wide = np.zeros((8, 20, 3), np.uint8)
    wide[:, 6:14] = 90
    np.testing.assert_array_equal(images.decode(stored(wide, 'RGB'), size=4), 90)
    np.testing.assert_array_equal(images.decode(stored(wide.transpose(1, 0, 2), 'RGB'), size=4), 90)
    square = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(images.decode(stored(square, 'RGB'), size=4), square)


def test_the_middle_is_kept_in_the_shape_of_the_result():
    image = np.zeros((10, 24, 3), np.uint8)
    image[:, 2:22] = 90  # what is left of 24 columns in the ratio of 4 : 8
    np.testing.assert_array_equal(
        images.decode(stored(image, 'RGB'), size=(4, 8)), [[[90] * 3] * 8] * 4
    )
    tall = stored(image.transpose(1, 0, 2), 'RGB')
    np.testing.assert_array_equal(images.decode(tall, size=(8, 4)), [[[90] * 3] * 4] * 8)
    as_it_is = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    np.testing.assert_array_equal(images.decode(stored(as_it_is, 'RGB'), size=(4, 6)), as_it_is)


def test_of_16_bits_the_upper_8_are_kept():
    deep = np.array([[0, 255, 256], [32767, 65280, 65535]], np.uint16)
    wanted = [[0, 0, 1], [127, 255, 255]]
    assert images.decode(stored(deep, 'I;16'), channels=1)[..., 0].tolist() == wanted


@pytest.mark.parametrize(
    'file, problem',
    [
        (io.BytesIO(b'text'), 'not an image'),
        (io.BytesIO(stored(NOISE, 'RGB').getvalue()[:500]), 'not an image'),
        (stored(np.zeros((4, 4), np.float32), 'F', 'TIFF'), '8 or 16 bits per channel'),
    ],
)
def test_what_is_no_image_of_8_bits_is_refused(file, problem):
    with pytest.raises(ValueError, match=problem):
        images.decode(file)

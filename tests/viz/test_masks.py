"""Overlays of masks: colours, what is drawn, and arrays that do not belong together."""

import numpy as np
import PIL.Image
import pytest

from cnn_jax.data.masks import IGNORE
from cnn_jax.errors import UserError
from cnn_jax.viz import masks

RNG = np.random.default_rng(0)


def test_classes_have_different_colours():
    table = masks.colours(21)
    assert table.shape == (21, 3) and (table[0] == 0).all()
    apart = np.abs(table[:, None] - table[None]).max(-1) + np.eye(21)
    assert apart.min() > 0.1
    assert masks.colours(0).shape == (0, 3) and masks.colours(1).shape == (1, 3)


def test_an_overlay_keeps_the_background_and_colours_the_rest():
    image = RNG.uniform(size=(4, 5, 3))
    image[0, 0], image[0, 1] = 0, 1  # the whole range, so that nothing is scaled
    mask = RNG.integers(0, 3, (4, 5))
    mask[1, 1] = IGNORE
    found = masks.overlay(image, mask, 3)
    np.testing.assert_array_equal(found[mask == 0], image[mask == 0])
    for label, colour in enumerate(masks.colours(3)[1:], start=1):
        np.testing.assert_allclose(
            found[mask == label], 0.4 * image[mask == label] + 0.6 * colour, atol=1e-12
        )
    np.testing.assert_allclose(found[1, 1], 0.4 * image[1, 1] + 0.6)


@pytest.mark.parametrize('channels', [1, 3])
def test_the_legend_lists_the_classes_that_are_drawn(channels, tmp_path):
    images = RNG.integers(0, 256, (9, 6, 8, channels)).astype(np.uint8)
    labels = np.zeros((9, 6, 8), np.uint8)
    labels[1] = 2
    labels[8] = 3  # not drawn: the ninth image
    predicted = np.zeros((9, 4, 6), np.int32)
    names = ('background', 'a', 'cost $5 or $6', 'c')
    path = tmp_path / 'sub' / 'masks.png'
    figure = masks.draw(images, labels, predicted, names, path, title='step 3')
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        r'cost \$5 or \$6', '(not counted)',
    ]  # fmt: skip
    assert len(figure.axes) == 24 and PIL.Image.open(path).width > 500


@pytest.mark.parametrize(
    ('shapes', 'message'),
    [
        (((0, 4, 4, 1), (0, 4, 4), (0, 4, 4)), 'none empty'),
        (((2, 4, 4, 1), (2, 4, 5), (2, 4, 4)), r'\(2, 4, 4, 1\) and \(2, 4, 5\)'),
        (((2, 4, 4, 1), (2, 4, 4), (2, 4, 5)), r'predicted: expected .* got shape \(2, 4, 5\)'),
        (((2, 4, 4, 1), (2, 4, 4), (1, 4, 4)), r'predicted: expected .* got shape \(1, 4, 4\)'),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(shapes, message):
    with pytest.raises(UserError, match=message):
        masks.draw(*(np.zeros(shape, np.uint8) for shape in shapes), ('a', 'b'))

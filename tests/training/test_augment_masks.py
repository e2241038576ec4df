"""Augmentation of images with masks: a pixel and its label stay together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data.masks import IGNORE
from cnn_jax.errors import UserError
from cnn_jax.training import TrainConfig, augment, augment_masks

KEY = jax.random.key(0)
# Every pixel has a unique value above 0, which determines its label.
IMAGES = jnp.arange(1, 1 + 64 * 6 * 8, dtype=jnp.float32).reshape(64, 6, 8, 1)
LABELS = np.asarray(IMAGES[..., 0]).astype(np.uint8) % 7


def labels_of(images):
    """Returns the labels of pixels that have moved: IGNORE where the image is 0."""
    values = np.asarray(images[..., 0]).astype(np.int32)
    return np.where(values > 0, values.astype(np.uint8) % 7, IGNORE)


@pytest.mark.parametrize('text', ['crop:2', 'flip', 'crop:3,flip:1'])
@pytest.mark.parametrize('dtype', [np.uint8, np.int32])
def test_labels_move_with_their_pixels(text, dtype):
    both = augment_masks.make_augment(TrainConfig(augment=text))
    images, labels = jax.jit(both)(KEY, IMAGES, LABELS.astype(dtype))
    np.testing.assert_array_equal(labels, labels_of(images))
    assert (images != IMAGES).any()
    assert (labels == IGNORE).any() == ('crop' in text)


@pytest.mark.parametrize('text', ['crop:2', 'flip', 'cutout:3', 'crop:1,flip,cutout:2,erase'])
def test_images_are_augmented_as_without_masks(text):
    config = TrainConfig(augment=text)
    images, _ = augment_masks.make_augment(config)(KEY, IMAGES, LABELS)
    alone, _ = augment.make_augment(config, 'image')(KEY, IMAGES, LABELS)
    np.testing.assert_array_equal(images, alone)


@pytest.mark.parametrize('text', ['cutout:3', 'erase:1', ''])
def test_what_is_hidden_keeps_its_label(text):
    images, labels = augment_masks.make_augment(TrainConfig(augment=text))(KEY, IMAGES, LABELS)
    np.testing.assert_array_equal(labels, LABELS)
    assert (images != IMAGES).any() == bool(text)


def test_mixing_is_refused():
    with pytest.raises(UserError, match="augment='flip,mixup': mixup does not apply to masks"):
        augment_masks.make_augment(TrainConfig(augment='flip,mixup'))

"""Scenes composed of real images: what is seen, its mask, and which images are used."""

import numpy as np
import pytest

from cnn_jax.data import Split, load, scenes
from cnn_jax.data.dataset import fingerprint
from cnn_jax.errors import UserError


def numbered(first, n, shape=(3, 2, 1)):
    """Examples whose image i has the value first + i, except for a faint hole, and class i % 5."""
    images = np.broadcast_to(np.arange(first, first + n)[:, None, None, None], (n, *shape))
    images = images.astype(np.uint8)
    images[:, 1, 1] = scenes.FAINTEST - 1
    return Split(images, (np.arange(n) % 5).astype(np.int32))


def test_every_pixel_has_the_label_of_the_object_that_is_seen_there():
    made = scenes.compose(numbered(15, 40), count=200, size=6, objects=3, key=(0, 0))
    seen = made.inputs[..., 0].astype(int)
    np.testing.assert_array_equal(made.labels, np.where(seen > 0, (seen - 15) % 5 + 1, 0))
    numbers = [len(set(scene[scene > 0])) for scene in seen]
    assert set(numbers) == {1, 2, 3}
    assert set(seen.ravel()) == {0, *range(15, 55)}  # every image is used
    assert seen.any(axis=0).all()  # and every position


def test_a_single_object_is_the_whole_image():
    examples = numbered(15, 7)
    made = scenes.compose(examples, count=50, size=6, objects=1, key=(3, 1))
    for scene, mask in zip(made.inputs, made.labels, strict=True):
        row = scene.max() - 15
        top, left = np.argwhere(scene[..., 0])[0]
        whole = np.where(examples.inputs[row] < scenes.FAINTEST, 0, examples.inputs[row])
        np.testing.assert_array_equal(scene[top : top + 3, left : left + 2], whole)
        assert np.count_nonzero(scene) == 5 and mask.max() == row % 5 + 1


def test_the_last_object_is_in_front():
    """In a scene of one image's size, all objects have the same place."""
    examples = Split(np.arange(15, 24, dtype=np.uint8).reshape(9, 1, 1, 1), np.zeros(9, np.int32))
    made = scenes.compose(examples, count=100, size=1, objects=2, key=(0, 0))
    words = np.random.Philox(key=np.zeros(2, np.uint64)).random_raw(700).reshape(100, 7)
    two = words[:, 0] % np.uint64(2) == 1
    front = np.where(two, words[:, 4], words[:, 1]) % np.uint64(9) + np.uint64(15)
    np.testing.assert_array_equal(made.inputs.ravel(), front)


def test_each_split_uses_its_own_images(monkeypatch):
    source = {'train': numbered(15, 20), 'test': numbered(101, 10)}
    parts = {'splits': source, 'class_names': tuple('abcde')}
    monkeypatch.setattr(scenes.readers, 'read_digits', lambda place: parts)
    dataset = load('digit_scenes:size=5,count=80', validation=0.25)
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        'train': 60, 'validation': 20, 'test': 20,
    }  # fmt: skip
    assert dataset.class_names == ('background', *'abcde')
    found = {name: set(split.inputs.ravel()) - {0} for name, split in dataset.splits.items()}
    assert max(found['train'] | found['validation']) <= 34 and min(found['test']) >= 101


def test_digit_scenes_never_change():
    """The fingerprints identify the scenes, so that results of different versions compare."""
    dataset = load('digit_scenes:count=40')
    assert dataset.input_shape == (32, 32, 1) and dataset.splits['train'].labels.dtype == np.uint8
    assert {name: fingerprint(split) for name, split in dataset.splits.items()} == {
        'train': '200d08417f6ae417',
        'test': '5cf9ce3e385b2e2a',
    }
    other = load('digit_scenes:count=40,seed=1')
    assert (other.splits['train'].inputs != dataset.splits['train'].inputs).any()


@pytest.mark.slow
def test_scenes_of_a_prepared_set(shared_data):
    dataset = load('fashion_scenes:count=8,objects=2', data_dir=shared_data)
    assert dataset.input_shape == (64, 64, 1) and dataset.num_classes == 11
    np.testing.assert_array_equal(
        dataset.splits['test'].labels > 0, dataset.splits['test'].inputs[..., 0] > 0
    )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ('size=7', 'size=7; it must be at least 8, as the objects'),
        ('objects=0', 'objects=0; it must be at least 1'),
        ('count=3', 'count=3; it must be at least 4'),
        ('seed=-1', 'seed=-1; it must be at least 0'),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        load(f'digit_scenes:{options}')

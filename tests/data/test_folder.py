import numpy as np
import pytest

from cnn_jax.data import Loader, evaluation_batches, load, readers
from tests.data import originals

CLASSES = ('ant', 'bee')


@pytest.fixture
def folder(tmp_path):
    """A folder of <class>/<number>.png, with 5 images per class.

    All pixels of an image have the same value, which encodes the class and the number.
    """
    for label, name in enumerate(CLASSES):
        files = {
            f'{i}.png': originals.encoded(np.full((6, 8, 3), 20 * i + label)) for i in range(5)
        }
        originals.write(tmp_path / 'images' / name, files)
    (tmp_path / 'images' / 'ant' / 'notes.txt').write_text('no image')
    return tmp_path / 'images'


def values(split):
    return sorted(int(image[0, 0, 0]) for image in split.inputs[np.arange(len(split))])


def test_a_folder_of_classes(folder):
    dataset = load('image_folder:test=0.3', data_dir=folder)
    assert dataset.class_names == CLASSES and dataset.input_shape == (6, 8, 3)
    assert {name: len(split) for name, split in dataset.splits.items()} == {'train': 7, 'test': 3}
    everything = [v for split in dataset.splits.values() for v in values(split)]
    assert sorted(everything) == sorted(20 * i + label for label in (0, 1) for i in range(5))
    for split in dataset.splits.values():
        np.testing.assert_array_equal(split.inputs[:, 0, 0, 0] % 20, split.labels)


def test_a_folder_of_splits(folder):
    files = {'x.png': originals.encoded(np.full((6, 8), 41))}
    folder = folder.parent / 'splits'
    for split in ('train', 'test', 'val'):
        for name in CLASSES:
            originals.write(folder / split / name, files)
    dataset = load('image_folder:channels=1,size=5', data_dir=folder)
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        'train': 2,
        'test': 2,
        'validation': 2,
    }
    assert dataset.input_shape == (5, 5, 1) and set(values(dataset.splits['test'])) == {41}


def test_images_on_disk_are_the_images_in_memory(folder, monkeypatch):
    kept = load('image_folder:test=0.3,size=4', data_dir=folder, validation=0.2)
    monkeypatch.setattr(readers, 'MEMORY_BYTES', 0)
    streamed = load('image_folder:test=0.3,size=4', data_dir=folder, validation=0.2)
    same_as_in_memory(streamed, kept)


def same_as_in_memory(streamed, kept):
    assert (streamed.mean, streamed.std) == (kept.mean, kept.std)
    for name, split in kept.splits.items():
        lazy = streamed.splits[name]
        assert not isinstance(lazy.inputs, np.ndarray)
        assert (lazy.inputs.shape, lazy.inputs.nbytes) == (split.inputs.shape, split.inputs.nbytes)
        np.testing.assert_array_equal(lazy.labels, split.labels)
        for rows in (slice(None), 0, np.array([-1, 0]), split.labels >= 0):
            np.testing.assert_array_equal(lazy.inputs[rows], split.inputs[rows])
        for a, b in zip(evaluation_batches(lazy, 2), evaluation_batches(split, 2), strict=True):
            np.testing.assert_array_equal(a['inputs'], b['inputs'])
    a, b = (Loader(found.splits['train'], 2, seed=1) for found in (streamed, kept))
    for step in (0, 5):
        np.testing.assert_array_equal(a.batch(step)['inputs'], b.batch(step)['inputs'])


@pytest.mark.parametrize(
    'spec, problem',
    [
        ('image_folder', 'has no test folder, and test=0.0 .* such as test=0.2'),
        ('image_folder:test=0.3,channels=2', 'channels=2; it must be 1 or 3'),
        ('image_folder:test=1.0', 'test=1.0'),
    ],
)
def test_options_that_do_not_fit_are_named(folder, spec, problem):
    with pytest.raises(ValueError, match=problem):
        load(spec, data_dir=folder)


def test_images_of_several_sizes_need_one(folder):
    originals.write(folder / 'bee', {'z.png': originals.encoded(np.zeros((9, 9, 3)))})
    with pytest.raises(ValueError, match=r'z.png has shape \(9, 9, 3\).*option size'):
        load('image_folder:test=0.2', data_dir=folder)
    assert load('image_folder:test=0.2,size=6', data_dir=folder).input_shape == (6, 6, 3)


def test_a_class_that_training_lacks_and_an_empty_folder_are_refused(folder, tmp_path):
    folder = tmp_path / 'splits'
    for split, name in (('train', 'ant'), ('test', 'cow')):
        originals.write(folder / split / name, {'a.png': originals.encoded(np.zeros((6, 8)))})
    with pytest.raises(ValueError, match="cow: unknown class 'cow'; must be one of ant"):
        load('image_folder', data_dir=folder)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='has no folders named after classes'):
        load('image_folder', data_dir=tmp_path / 'empty')
    with pytest.raises(FileNotFoundError, match='is not a folder'):
        load('image_folder', data_dir=tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='give the folder as data_dir'):
        load('image_folder')


def test_a_damaged_image_is_named(folder):
    (folder / 'bee' / '3.png').write_bytes(b'nothing')
    with pytest.raises(ValueError, match='3.png: not an image'):
        load('image_folder:test=0.2', data_dir=folder)

"""Images with masks, in folders and in data sets that TFDS has prepared."""

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from cnn_jax.data import load, masks, readers
from cnn_jax.data.builders.base import unregistered
from cnn_jax.errors import UserError
from tests.data.test_any_prepared import prepare

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True, scope='module')
def leave_no_trace():
    with unregistered():
        yield


def pair(height=6, width=8, classes=3):
    """Returns a random image and a mask whose labels are in blocks of 2 x 2 pixels."""
    image = RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)
    labels = RNG.integers(0, classes, (height // 2, width // 2)).astype(np.uint8)
    labels[0, 0] = masks.IGNORE
    labels[-1, -1] = classes - 1
    return image, labels.repeat(2, 0).repeat(2, 1)


def write(root, name, image, mask, palette=False):
    for kind, array in (('images', image), ('masks', mask)):
        (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
        picture = PIL.Image.fromarray(array)
        if kind == 'masks' and palette:
            picture = picture.convert('P')
            picture.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
            picture.putdata(array.ravel().tolist())
        picture.save(root / kind / f'{name}.png')
    return image, mask


@pytest.fixture
def root(tmp_path):
    """A folder of five examples, the last with a palette and in a subfolder."""
    for name in 'abcd':
        write(tmp_path, name, *pair())
    write(tmp_path, 'more/e', *pair(), palette=True)
    return tmp_path


def test_images_and_masks_are_as_they_were_written(tmp_path):
    wanted = {}
    for split, names in {'train': ('a', 'b/c'), 'test': ('d',), 'val': ('e',)}.items():
        wanted[split] = [write(tmp_path / split, n, *pair(), palette=n < 'd') for n in names]
    (tmp_path / 'classes.txt').write_text('sky\nroad\n\ncar\nbus\n')
    dataset = load('mask_folder', data_dir=tmp_path)
    assert dataset.class_names == ('sky', 'road', 'car', 'bus')
    wanted['validation'] = wanted.pop('val')
    assert set(dataset.splits) == set(wanted)
    for name, split in dataset.splits.items():
        np.testing.assert_array_equal(split.inputs, [image for image, _ in wanted[name]])
        np.testing.assert_array_equal(split.labels, [mask for _, mask in wanted[name]])
        assert split.labels.dtype == np.uint8


def test_a_test_split_is_drawn_and_classes_are_counted(root):
    dataset = load('mask_folder:test=0.4,channels=1', data_dir=root)
    assert {name: len(split) for name, split in dataset.splits.items()} == {'train': 3, 'test': 2}
    assert dataset.class_names == ('0', '1', '2') and dataset.input_shape == (6, 8, 1)


def test_masks_are_resized_to_the_nearest_label_and_cropped_like_images(root, monkeypatch):
    """Columns 1 to 6 are kept, and of every two pixels the second, whose centre is nearer."""
    whole = load('mask_folder:test=0.4', data_dir=root)
    halved = load('mask_folder:test=0.4,size=3', data_dir=root)
    for name, split in halved.splits.items():
        np.testing.assert_array_equal(split.labels, whole.splits[name].labels[:, 1::2, 2:8:2])
    monkeypatch.setattr(readers, 'MEMORY_BYTES', 0)
    stored = load('mask_folder:test=0.4,size=3', data_dir=root).splits['test']
    assert not isinstance(stored.inputs, np.ndarray)
    np.testing.assert_array_equal(stored.inputs[:], halved.splits['test'].inputs)
    np.testing.assert_array_equal(stored.labels, halved.splits['test'].labels)


def test_only_a_test_split_can_be_evaluated(tmp_path):
    write(tmp_path / 'test', 'a', *pair())
    dataset = load('mask_folder', data_dir=tmp_path)
    assert len(dataset.splits['train']) == 0 and dataset.splits['train'].labels.shape == (0, 6, 8)


def spoil_mode(root):
    PIL.Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(root / 'masks' / 'b.png')


def spoil_label(root):
    (root / 'classes.txt').write_text('one\ntwo\nthree')
    image, mask = pair()
    mask[3, 5] = 77
    write(root, 'c', image, mask)


def spoil_binary(root):
    for name in ('a', 'b', 'c', 'd', 'more/e'):
        image, mask = pair()
        write(root, name, image, np.where(mask > 0, 255, 0).astype(np.uint8))


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda r: (r / 'masks/b.png').unlink(), r'images/b.png has no mask of the same name in'),
        (lambda r: (r / 'images/b.png').unlink(), r'masks/b.png has no image of the same name in'),
        (lambda r: write(r, 'b', pair()[0], pair(8, 8)[1]), r'b.png has 8 x 8 pi.*, but .* 6 x 8'),
        (lambda r: write(r, 'b', *pair(8, 8)), r'png has . x 8 pixels, but .*option size'),
        (lambda r: (r / 'masks/b.png').write_bytes(b'no'), r'masks/b.png: not an image'),
        (lambda r: (r / 'images/a.jpg').write_bytes(b''), r'a.jpg and .*a.png have the same name'),
        (lambda r: (r / 'masks').rename(r / 'labels'), r'masks is missing; a folder of masks has'),
        (lambda r: (r / 'classes.txt').write_text('\n'), r'classes.txt has 0 lines'),
        (spoil_mode, r'masks/b.png: mode RGB; the pixels of a mask must be labels'),
        (spoil_label, r'masks/c.png: label 77 at row 3, column 5; it must be in 0..2, or 255'),
        (spoil_binary, r'the only labels are 0 and 255'),
    ],
)  # fmt: skip
def test_bad_folders_are_refused_and_the_file_is_named(root, spoil, message):
    spoil(root)
    with pytest.raises(UserError, match=message):
        load('mask_folder:test=0.4', data_dir=root)


@pytest.mark.parametrize(
    ('options', 'message'),
    [('channels=2', 'channels=2; it must be 1 or 3'), ('size=-1', 'size=-1'), ('', 'test=0.0 of')],
)
def test_options_that_are_refused(root, options, message):
    with pytest.raises(UserError, match=message):
        load(f'mask_folder:{options}', data_dir=root)


PHOTO = tfds.features.Image(shape=(None, None, 3))
MASK = tfds.features.Image(shape=(None, None, 1), use_colormap=True)
NAMED = tfds.features.LabeledImage(shape=(None, None, 1), labels=['sky', 'road', 'car'])


def examples(n=3):
    made = [pair() for _ in range(n)]
    of = PIL.Image.fromarray  # arrays would need TensorFlow
    return made, [{'photo': of(image), 'mask': of(mask)} for image, mask in made]


@pytest.mark.parametrize(
    ('feature', 'names'), [(MASK, ('0', '1', '2')), (NAMED, ('sky', 'road', 'car'))]
)
def test_a_prepared_set_with_masks(tmp_path, feature, names):
    made, stored = examples()
    prepare(tmp_path, {'photo': PHOTO, 'mask': feature}, stored)
    dataset = load('own_set', data_dir=tmp_path)
    assert dataset.class_names == names
    split = dataset.splits['train']
    found = sorted(zip(split.inputs.tolist(), split.labels.tolist(), strict=True))
    assert found == sorted((image.tolist(), mask.tolist()) for image, mask in made)
    halved = load('own_set:size=3', data_dir=tmp_path)
    np.testing.assert_array_equal(halved.splits['train'].labels, split.labels[:, 1::2, 2:8:2])


def test_a_prepared_set_with_masks_and_classes_has_classes_by_default(tmp_path):
    _, stored = examples()
    label = tfds.features.ClassLabel(names=['no', 'yes'])
    features = {'photo': PHOTO, 'segmentation_mask': MASK, 'label': label}
    stored = [
        {'photo': e['photo'], 'segmentation_mask': e['mask'], 'label': i % 2}
        for i, e in enumerate(stored)
    ]
    prepare(tmp_path, features, stored, supervised=('photo', 'label'))
    assert load('own_set', data_dir=tmp_path).class_names == ('no', 'yes')
    with_masks = load('own_set:target=segmentation_mask', data_dir=tmp_path)
    assert with_masks.class_names == ('0', '1', '2')
    with pytest.raises(UserError, match="target='label' is not a mask of .*; segmentation_mask is"):
        load('own_set:target=label', data_dir=tmp_path)

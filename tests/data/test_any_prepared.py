"""Data sets that are not registered, prepared by builders defined here."""

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from cnn_jax.data import load, readers
from cnn_jax.data.builders.base import unregistered
from tests.data.test_folder import same_as_in_memory
from tools import fuzz_readers

CLASS = tfds.features.ClassLabel(names=['no', 'yes'])


def prepare(folder, features, examples, supervised=None, splits=('train', 'test')):
    """Prepares a data set 'own_set' with `examples` in each of `splits` and returns its folder."""

    class OwnSet(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=supervised,
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in splits}

        def _generate_examples(self):
            yield from enumerate(examples)

    builder = OwnSet(data_dir=str(folder), file_format='array_record')
    builder.download_and_prepare()
    return folder / 'own_set' / '1.0.0'


@pytest.fixture(autouse=True, scope='module')
def leave_no_trace():
    with unregistered():
        yield


def pictures(n=6):
    rng = np.random.default_rng(0)
    for i in range(n):
        size = (9 + i, 12, 3)
        image = PIL.Image.fromarray(rng.integers(0, 256, size).astype(np.uint8))
        yield {'picture': image, 'class': i % 2}


IMAGES = {'picture': tfds.features.Image(shape=(None, None, 3)), 'class': CLASS}


def test_images(tmp_path):
    prepare(tmp_path, IMAGES, list(pictures()))
    dataset = load('own_set:size=8', data_dir=tmp_path)
    assert dataset.kind == 'image' and dataset.input_shape == (8, 8, 3)
    assert dataset.class_names == ('no', 'yes')
    assert sorted(dataset.splits['train'].labels) == [0, 0, 0, 1, 1, 1]
    with pytest.raises(ValueError, match='picture of example .* has shape .* option size'):
        load('own_set', data_dir=tmp_path)
    with pytest.raises(ValueError, match='size=-1'):
        load('own_set:size=-1', data_dir=tmp_path)


def test_images_on_disk_are_the_images_in_memory(tmp_path, monkeypatch):
    prepare(tmp_path, IMAGES, list(pictures()))
    kept = load('own_set:size=8', data_dir=tmp_path, validation=0.3)
    monkeypatch.setattr(readers, 'MEMORY_BYTES', 0)
    same_as_in_memory(load('own_set:size=8', data_dir=tmp_path, validation=0.3), kept)


def test_texts(tmp_path):
    features = {'sentence': tfds.features.Text(), 'label': CLASS}
    examples = [{'sentence': 'so good', 'label': 1}, {'sentence': 'so bad', 'label': 0}]
    prepare(tmp_path, features, examples)
    dataset = load('own_set', data_dir=tmp_path)
    assert dataset.kind == 'text' and dataset.meta['vocabulary'][2:] == ('so', 'bad', 'good')


def test_a_set_without_test_labels_is_tested_on_its_validation_split(tmp_path):
    features = {'sentence': tfds.features.Text(), 'label': CLASS}
    prepare(tmp_path, features, [{'sentence': 'a', 'label': 1}], splits=('train', 'validation'))
    assert set(load('own_set', data_dir=tmp_path).splits) == {'train', 'test'}


@pytest.mark.parametrize(
    'features, example, splits, problem',
    [
        (
            {'a': tfds.features.Text(), 'b': tfds.features.Text(), 'label': CLASS},
            {'a': 'x', 'b': 'y', 'label': 0},
            ('train', 'test'),
            'not clear which feature is the input',
        ),
        (
            {'label': CLASS},
            {'label': 0},
            ('train', 'test'),
            'needs images, audio or text',
        ),
        (
            {'a': tfds.features.Text(), 'label': CLASS},
            {'a': 'x', 'label': 0},
            ('extra',),
            'has the splits extra, but not train',
        ),
    ],
)
def test_a_set_that_does_not_fit_is_refused(tmp_path, features, example, splits, problem):
    prepare(tmp_path, features, [example], splits=splits)
    with pytest.raises(ValueError, match=problem):
        load('own_set', data_dir=tmp_path)


def test_tfrecord_is_read_too(tmp_path, monkeypatch):
    """Reads the same examples in TFDS's usual format, framed here as its documentation says."""
    path = prepare(tmp_path, IMAGES, list(pictures()))
    wanted = load('own_set:size=8', data_dir=tmp_path)
    from cnn_jax.data.prepared import Prepared

    folder = Prepared(path)
    for split in folder.sizes:
        (shard,) = folder.shards(split)
        records = list(folder.records(split))
        framed = b''.join(map(fuzz_readers.framed, records))
        shard.unlink()
        (path / shard.name.replace('array_record', 'tfrecord')).write_bytes(framed)
    info = path / 'dataset_info.json'
    info.write_text(info.read_text().replace('array_record', 'tfrecord'))
    dataset = load('own_set:size=8', data_dir=tmp_path)
    for name, split in wanted.splits.items():
        np.testing.assert_array_equal(dataset.splits[name].inputs, split.inputs)
        np.testing.assert_array_equal(dataset.splits[name].labels, split.labels)
    monkeypatch.setattr(readers, 'MEMORY_BYTES', 0)
    with pytest.raises(ValueError, match='too large for memory and was not prepared as array_rec'):
        load('own_set:size=8', data_dir=tmp_path)
    shard = path / 'own_set-train.tfrecord-00000-of-00001'
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(ValueError, match='truncated or damaged .the file ends within an example'):
        load('own_set:size=7', data_dir=tmp_path)


def test_a_set_of_one_split_gets_a_test_split(tmp_path):
    prepare(tmp_path, IMAGES, list(pictures(10)), splits=('train',))
    with pytest.warns(UserWarning, match="'own_set' has no test split: a fixed fifth"):
        dataset = load('own_set:size=8', data_dir=tmp_path)
    assert {name: len(split) for name, split in dataset.splits.items()} == {'train': 8, 'test': 2}


@pytest.mark.parametrize(
    'part, rows',
    [
        ('[:50%]', slice(0, 3)),
        ('[2:]', slice(2, 6)),
        ('[1:4]', slice(1, 4)),
        ('[50%:]', slice(3, 6)),
    ],
)
def test_a_part_of_a_split(tmp_path, part, rows):
    prepare(tmp_path, IMAGES, list(pictures()))
    whole = load('own_set:size=8', data_dir=tmp_path).splits['train']
    dataset = load(f'own_set:size=8,train{part}', data_dir=tmp_path)
    np.testing.assert_array_equal(dataset.splits['train'].inputs, whole.inputs[rows])
    assert len(dataset.splits['test']) == 6 and dataset.meta['options']['train'] == part


@pytest.mark.parametrize('part', ['[:0]', '[4:2]', '[:150%]', '[a]'])
def test_a_part_that_is_none_is_refused(tmp_path, part):
    prepare(tmp_path, IMAGES, list(pictures()))
    with pytest.raises(ValueError, match='train'):
        load(f'own_set:size=8,train{part}', data_dir=tmp_path)


def test_a_pinned_version(tmp_path):
    path = prepare(tmp_path, IMAGES, list(pictures()))
    newer = path.with_name('1.1.0')
    newer.mkdir()  # the newest version is incomplete and cannot be read
    assert len(load('own_set/1.0.0:size=8', data_dir=tmp_path).splits['train']) == 6
    with pytest.raises(FileNotFoundError, match='1.1.0'):
        load('own_set:size=8', data_dir=tmp_path)
    with pytest.raises(ValueError, match="unknown data set 'own_set/2.0.0'"):
        load('own_set/2.0.0', data_dir=tmp_path)

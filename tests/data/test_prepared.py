import json
import shutil

import numpy as np
import pytest

from cnn_jax.data import cache, load
from cnn_jax.data.prepared import Prepared, default_data_dir, find
from tests.data import originals


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A prepared folder of 20 + 10 images."""
    root = tmp_path_factory.mktemp('prepared')
    files, _ = originals.mnist()
    with pytest.MonkeyPatch.context() as patch:
        originals.accept(patch, 'mnist', files)
        from cnn_jax.data.prepare import prepare

        return prepare('mnist', root, originals.write(root / 'raw', files))


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the prepared folder, <data_dir>/mnist/<version>, for tests to damage."""
    return shutil.copytree(folder, tmp_path / 'mnist' / folder.name)


def shard(copy, split='train'):
    return copy / f'mnist-{split}.array_record-00000-of-00001'


def change(copy, **changes):
    """Changes the first split's entry in dataset_info.json and returns the name of the split."""
    path = copy / 'dataset_info.json'
    info = json.loads(path.read_text())
    info['splits'][0].update(changes)
    path.write_text(json.dumps(info))
    return info['splits'][0]['name']


def halve(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 100] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize(
    'damage, complaint',
    [
        (lambda copy: shard(copy).unlink(), 'mnist-train.*is missing'),
        (lambda copy: (copy / 'dataset_info.json').unlink(), 'dataset_info.json is missing'),
        (lambda copy: (copy / 'features.json').unlink(), 'features.json is missing'),
        (lambda copy: (copy / 'dataset_info.json').write_text('{'), 'description is damaged'),
        (lambda copy: (copy / 'dataset_info.json').write_text('{}'), 'description is damaged'),
        (lambda copy: shard(copy).write_bytes(b''), 'mnist-train.*truncated or damaged'),
        (lambda copy: halve(shard(copy)), 'mnist-train.*truncated or damaged'),
        (lambda copy: flip(shard(copy)), 'mnist-train.*truncated or damaged'),
        (lambda copy: change(copy, shardLengths=['7']), 'holds .. examples instead of 7'),
        (lambda copy: change(copy, numBytes='7'), 'bytes instead of 7'),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(copy, damage, complaint):
    damage(copy)
    with pytest.raises((ValueError, FileNotFoundError), match=complaint) as caught:
        load('mnist', data_dir=copy.parents[1])
    message = str(caught.value)
    assert '\n' not in message and 'delete that folder' in message


def test_another_file_format_is_named(copy):
    path = copy / 'dataset_info.json'
    path.write_text(path.read_text().replace('"array_record"', '"riegeli"'))
    for split in ('train', 'test'):
        shard(copy, split).rename(copy / f'mnist-{split}.riegeli-00000-of-00001')
    with pytest.raises(ValueError, match='prepared as riegeli'):
        load('mnist', data_dir=copy.parents[1])


def test_a_feature_that_is_not_there_is_named(folder):
    with pytest.raises(ValueError, match="'sound' cannot be decoded"):
        next(Prepared(folder).examples('train', ['sound']))


def test_the_newest_version_is_found(tmp_path):
    for version in ('1.9.0', '1.10.0', '1.2.0', '2.0.0.incompleteXY'):
        (tmp_path / 'name' / version).mkdir(parents=True)
    assert find('name', tmp_path).name == '1.10.0'
    assert find('other', tmp_path) is None


def test_the_default_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv('TFDS_DATA_DIR')
    assert default_data_dir().name == 'tensorflow_datasets'


DTYPES = {'image': np.uint8, 'label': np.int32}


def test_the_cache_gives_the_same_arrays_without_decoding(copy, monkeypatch):
    decoded = cache.columns(Prepared(copy), 'train', DTYPES)
    monkeypatch.setattr(Prepared, 'columns', None)
    cached = cache.columns(Prepared(copy), 'train', DTYPES)
    for name in DTYPES:
        np.testing.assert_array_equal(decoded[name], cached[name])
        assert decoded[name].dtype == cached[name].dtype


def test_a_damaged_cache_is_passed_over(copy):
    decoded = cache.columns(Prepared(copy), 'train', DTYPES)
    (file,) = cache.cache_folder().iterdir()
    data = bytearray(file.read_bytes())
    for place in (len(data) // 2, 0):
        data[place] ^= 255
        file.write_bytes(data)
        again = cache.columns(Prepared(copy), 'train', DTYPES)
        np.testing.assert_array_equal(decoded['image'], again['image'])


def test_a_changed_folder_is_not_served_from_the_cache(copy):
    cache.columns(Prepared(copy), 'train', DTYPES)
    flip(shard(copy))
    with pytest.raises(ValueError, match='damaged'):
        cache.columns(Prepared(copy), 'train', DTYPES)


def test_an_unwritable_cache_only_costs_time(copy, monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert len(cache.columns(Prepared(copy), 'test', DTYPES)['label']) == 10

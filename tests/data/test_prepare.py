import gzip
import socket
import subprocess
import sys

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from cnn_jax.data import load, prepare
from cnn_jax.data.builders.mnist import read_idx
from cnn_jax.data.prepared import Prepared
from tests.data import originals


@pytest.fixture
def no_network(monkeypatch):
    """Makes every host look-up fail, as on a machine without a network."""

    def refuse(host, *args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, f'no network: {host}')

    monkeypatch.setattr(socket, 'getaddrinfo', refuse)


def by_content(images, labels):
    pairs = zip(labels, images.reshape(len(images), -1), strict=True)
    return sorted((int(label), bytes(image.astype(np.uint8))) for label, image in pairs)


def test_small_originals_are_prepared_and_read(tmp_path, monkeypatch, no_network):
    files, content = originals.mnist()
    originals.accept(monkeypatch, 'mnist', files)
    raw = originals.write(tmp_path / 'raw', files)
    (tmp_path / 'tfds').mkdir()
    dataset = load('mnist', data_dir=tmp_path / 'tfds', manual_dir=raw)
    for split, (images, labels) in content.items():
        found = dataset.splits[split]
        assert found.inputs.shape == (len(labels), 28, 28, 1) and found.inputs.dtype == np.uint8
        assert by_content(found.inputs, found.labels) == by_content(images, labels)
    again = load('mnist', data_dir=tmp_path / 'tfds', download=False)
    np.testing.assert_array_equal(again.splits['train'].inputs, dataset.splits['train'].inputs)


def test_two_sets_with_the_same_file_names_do_not_mix(tmp_path, monkeypatch, no_network):
    contents = {}
    for seed, name in enumerate(('mnist', 'fashion_mnist')):
        files, contents[name] = originals.mnist(seed=seed)
        originals.accept(monkeypatch, name, files)
        originals.write(tmp_path / 'raw' / name, files)
    for name, content in contents.items():
        monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
        dataset = load(name, manual_dir=tmp_path / 'raw' / name)
        found = dataset.splits['test']
        assert by_content(found.inputs, found.labels) == by_content(*content['test'])
    assert dataset.class_names[0] == 'T-shirt/top'


def test_a_wrong_file_is_refused_and_nothing_is_left_behind(tmp_path, monkeypatch, no_network):
    files, _ = originals.mnist()
    originals.accept(monkeypatch, 'mnist', files)
    changed = dict(files)
    changed['train-labels-idx1-ubyte.gz'] = originals.idx(np.zeros(20, int))
    raw = originals.write(tmp_path / 'raw', changed)
    (tmp_path / 'tfds').mkdir()
    with pytest.raises(ValueError, match='mnist: .*train-labels-idx1-ubyte.gz'):
        load('mnist', data_dir=tmp_path / 'tfds', manual_dir=raw)
    assert prepare.prepared.find('mnist', tmp_path / 'tfds') is None


def test_a_manual_folder_that_lacks_a_file_is_refused(tmp_path):
    files, _ = originals.mnist()
    del files['t10k-labels-idx1-ubyte.gz']
    raw = originals.write(tmp_path / 'raw', files)
    with pytest.raises(FileNotFoundError, match='lacks t10k-labels-idx1-ubyte.gz'):
        load('mnist', data_dir=tmp_path, manual_dir=raw)
    with pytest.raises(FileNotFoundError, match='manual_dir=.*is not a folder'):
        load('mnist', data_dir=tmp_path, manual_dir=tmp_path / 'nowhere')


def test_without_a_network_one_line_says_what_to_do(tmp_path, no_network):
    with pytest.raises(ConnectionError) as caught:
        load('mnist', data_dir=tmp_path)
    message = str(caught.value)
    assert 'mnist is not prepared' in message and str(tmp_path) in message
    assert 'data_dir' in message and '\n' not in message


def test_a_missing_folder_and_a_forbidden_download_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="data_dir='.*nowhere' is not a folder"):
        load('mnist', data_dir=tmp_path / 'nowhere')
    with pytest.raises(FileNotFoundError, match='mnist is not prepared in'):
        load('mnist', data_dir=tmp_path, download=False)


@pytest.mark.parametrize(
    'data, complaint',
    [
        (b'\0\0\x08\x01' + b'\0\0\0\x05' + b'abc', '3 bytes for an array of shape'),
        (b'\0\0\x0d\x01' + b'\0\0\0\x01' + b'abcd', 'not an IDX file'),
    ],
)
def test_a_damaged_idx_file_is_refused(tmp_path, data, complaint):
    path = tmp_path / 'file.gz'
    path.write_bytes(gzip.compress(data))
    with pytest.raises(ValueError, match=complaint):
        read_idx(path)


def decoded(folder, record):
    feature = tf_example_pb2.Example.FromString(record).features.feature
    image, label = (folder.features.decoder(key)(feature[key]) for key in ('image', 'label'))
    return image.shape, image.tobytes(), label


@pytest.mark.slow
def test_mnist_from_its_originals_is_tfds_mnist(tmp_path, shared_data, raw_mnist):
    """Verifies, prepares and reads without network and TensorFlow; compares every example."""
    program = (
        'import socket, sys\n'
        'def refuse(*args, **kwargs): raise socket.gaierror("no network")\n'
        'socket.getaddrinfo = refuse\n'
        'from cnn_jax.data.prepare import find_or_prepare\n'
        'find_or_prepare("mnist", sys.argv[1], sys.argv[2], download=False)\n'
        'assert "tensorflow" not in sys.modules\n'
    )
    subprocess.run([sys.executable, '-c', program, str(tmp_path), str(raw_mnist)], check=True)
    (made,) = (tmp_path / 'mnist').glob('3.*')
    ours, theirs = Prepared(made), Prepared(shared_data / 'mnist' / made.name)
    assert dict(ours.sizes) == dict(theirs.sizes) == {'train': 60_000, 'test': 10_000}
    for split in ours.sizes:
        for a, b in zip(ours.records(split), theirs.records(split), strict=True):
            # If the PNG bytes differ, the pixels must be equal.
            assert a == b or decoded(ours, a) == decoded(theirs, b)

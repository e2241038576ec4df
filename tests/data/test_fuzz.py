"""Damaged and hostile files: every reader returns a result or reports an error in one line."""

import struct
import sys
import zlib

import numpy as np
import PIL.Image
import pytest

from cnn_jax import data
from cnn_jax.data import images
from cnn_jax.data.builders.mnist import read_idx
from cnn_jax.errors import UserError
from cnn_jax.tables import aligned, printable
from tools import fuzz_readers


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits memory by /proc')
@pytest.mark.parametrize('name', fuzz_readers.FORMATS)
def test_damaged_files_are_answered_or_refused(name):
    counts, examples = fuzz_readers.run(name, seed=1, first=0, last=60)
    assert not examples and sum(counts.values()) == 60


def test_a_flipped_letter_in_a_record_is_seen(tmp_path):
    path, records = fuzz_readers.prepared_set(tmp_path, 'tfrecord')
    assert len(data.load('own_set', data_dir=tmp_path).splits['test']) == 4
    shard = path / 'own_set-test.tfrecord-00000-of-00001'
    content = bytearray(shard.read_bytes())
    content[len(records[0]) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match='own_set-test.tfrecord.*does not match its checksum'):
        data.load('own_set', data_dir=tmp_path)


def test_a_description_names_no_files_of_other_folders(tmp_path):
    path, _ = fuzz_readers.prepared_set(tmp_path, 'tfrecord')
    secret = tmp_path / 'secret'
    secret.write_bytes(b'')
    info = path / 'dataset_info.json'
    text = info.read_text().replace('"numBytes"', '"filepathTemplate": "../../secret", "numBytes"')
    info.write_text(text)
    with pytest.raises(FileNotFoundError, match='secret is missing'):
        data.load('own_set', data_dir=tmp_path)


def test_bombs_are_refused(tmp_path, monkeypatch):
    def chunk(kind, content):
        body = kind + content
        return struct.pack('>I', len(content)) + body + struct.pack('>I', zlib.crc32(body))

    header = struct.pack('>2I5B', 60000, 60000, 8, 2, 0, 0, 0)
    bomb = tmp_path / 'bomb.png'
    bomb.write_bytes(
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', b'') + chunk(b'IEND', b'')
    )
    with pytest.raises(UserError, match='bomb.png: too large to be decoded'):
        images.decode(bomb)
    idx = tmp_path / 'idx.gz'
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 24)
    idx.write_bytes(
        b''.join([*(compressor.compress(zeros) for _ in range(33)), compressor.flush()])
    )
    with pytest.raises(UserError, match='idx.gz has more than .* bytes unpacked'):
        read_idx(idx)


def test_control_characters_do_not_reach_a_terminal():
    assert printable('\x1b]0;owned\x07 café 日本') == r'\x1b]0;owned\x07 café 日本'
    assert '\x1b' not in aligned([('class', 'n'), ('\x1b[2Jdog', '1')])


@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', 'CMYK', '1', 'LA', 'RGBA'])
def test_whole_files_are_still_read(tmp_path, mode):
    array = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5)
    suffix = 'tif' if mode == 'CMYK' else 'png'
    PIL.Image.fromarray(array).convert(mode).save(tmp_path / f'x.{suffix}')
    assert images.decode(tmp_path / f'x.{suffix}', 3).shape == (6, 5, 3)

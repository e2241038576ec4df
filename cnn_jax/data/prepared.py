"""Reads and checks data sets that TFDS has prepared on disk, without TensorFlow.

A prepared data set is a folder `<data_dir>/<name>[/<config>]/<version>` with `dataset_info.json`,
`features.json` and shards. TFDS's own `data_source` could read it, but does not count the examples
and does not explain what is wrong with a partially written folder.
"""

import json
import os
import pathlib
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from cnn_jax.data.features import Features
from cnn_jax.errors import UserError

INFO_FILE = 'dataset_info.json'
_TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
# Errors that a malformed description or example can cause.
NOT_AS_DESCRIBED = (
    AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError,
)  # fmt: skip


class Shards(NamedTuple):
    """The files of a split: examples per file, total bytes (0 if unknown), file name template."""

    lengths: tuple[int, ...]
    num_bytes: int
    template: str


_VERSION = re.compile(r'\d+\.\d+\.\d+')


def default_data_dir() -> pathlib.Path:
    """Returns TFDS_DATA_DIR if it is set, otherwise TFDS's default ~/tensorflow_datasets."""
    return pathlib.Path(os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()


def find(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of a prepared data set, or None if there is none.

    A `name` such as 'mnist' or 'glue/sst2' selects the newest version, 'mnist/3.0.1' that version.
    """
    parent = data_dir / name
    if _VERSION.fullmatch(parent.name):
        return parent if parent.is_dir() else None
    versions = [p for p in parent.glob('*') if _VERSION.fullmatch(p.name) and p.is_dir()]
    return max(versions, key=lambda p: tuple(map(int, p.name.split('.'))), default=None)


class Prepared:
    """A prepared folder, with its description and the decoded examples of its splits.

    Attributes:
        path: the folder.
        info: the parsed `dataset_info.json`.
        features: the features of an example.
        sizes: number of examples in each split.

    Raises:
        FileNotFoundError: a description file or a shard is missing.
        ValueError: the description is damaged.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        for file in (INFO_FILE, 'features.json'):
            if not (self.path / file).is_file():
                raise FileNotFoundError(_half_written(self.path, f'{file} is missing'))
        try:
            self.info: dict[str, Any] = json.loads((self.path / INFO_FILE).read_text())
            self._splits = {
                str(split['name']): Shards(
                    tuple(map(int, split['shardLengths'])),
                    int(split.get('numBytes') or 0),
                    str(split.get('filepathTemplate') or _TEMPLATE),
                )
                for split in self.info['splits']
            }
            self.sizes: Mapping[str, int] = {
                name: sum(split.lengths) for name, split in self._splits.items()
            }
            files = {name: self._shards(name) for name in self._splits}
            self.features = Features(self.path)
        except UserError:
            raise
        except NOT_AS_DESCRIBED as error:
            raise UserError(
                _half_written(self.path, f'its description is damaged ({error!r})')
            ) from error
        for split, shards in files.items():
            for shard, _ in shards:
                if not shard.is_file():
                    raise FileNotFoundError(_half_written(self.path, f'{shard.name} is missing'))
            # An example has at least one byte. A larger number would only allocate too much memory.
            most = max(1_000_000, sum(shard.stat().st_size for shard, _ in shards))
            if not 0 <= self.sizes[split] <= most:
                raise UserError(
                    _half_written(
                        self.path, f'split {split} cannot hold {self.sizes[split]} examples'
                    )
                )

    def _shards(self, split: str) -> list[tuple[pathlib.Path, int]]:
        """Returns the files of a split and the number of examples that each should hold."""
        lengths, _, template = self._splits[split]
        shards = []
        for index, length in enumerate(lengths):
            x_of_y = f'{index:05d}-of-{len(lengths):05d}'
            fields = {
                'DATASET': self.info['name'],
                'SPLIT': split,
                'FILEFORMAT': self.info.get('fileFormat', 'tfrecord'),
                'SHARD_INDEX': f'{index:05d}',
                'NUM_SHARDS': f'{len(lengths):05d}',
                'SHARD_X_OF_Y': x_of_y,
            }
            # Keep only the file name: a manipulated description must not refer to other folders.
            file = pathlib.PurePath(template.format(**fields)).name
            shards.append((self.path / file, length))
        return shards

    def shards(self, split: str) -> list[pathlib.Path]:
        """Returns the files of a split."""
        return [path for path, _ in self._shards(split)]

    @property
    def random_access(self) -> bool:
        """Whether examples can be read one by one."""
        return self._format == 'array_record'

    @property
    def _format(self) -> str:
        return self.info.get('fileFormat', 'tfrecord')

    def records(self, split: str) -> Iterator[bytes]:
        """Yields the serialised examples of a split, in order.

        Raises:
            ValueError: the file format is not supported, a shard is truncated or damaged, or the
                number of examples or bytes differs from the description.
        """
        if self._format not in _READERS:
            raise UserError(
                f'{self.path} was prepared as {self._format}; must be {" or ".join(_READERS)}'
            )
        total = 0
        for shard, length in self._shards(split):
            found = 0
            try:
                for record in _READERS[self._format](shard):
                    found += 1
                    total += len(record)
                    if found <= length:
                        yield record
            except (RuntimeError, struct.error) as error:
                reason = ' '.join(str(error).split())
                raise UserError(
                    _half_written(self.path, f'{shard.name} is truncated or damaged ({reason})')
                ) from error
            if found != length:
                raise UserError(
                    _half_written(
                        self.path, f'{shard.name} holds {found} examples instead of {length}'
                    )
                )
        expected = self._splits[split].num_bytes or total
        if total != expected:
            raise UserError(
                _half_written(self.path, f'split {split} has {total} bytes instead of {expected}')
            )

    def decoder(self, names: Sequence[str], size: int = 0) -> Callable[[bytes], dict[str, Any]]:
        """Returns a function that decodes the features `names` of a serialised example."""
        from google.protobuf import message
        from tensorflow_datasets.proto import tf_example_pb2  # 0.5 s

        decoders = {name: self.features.decoder(name, size) for name in names}

        def decode(record: bytes) -> dict[str, Any]:
            try:
                feature = tf_example_pb2.Example.FromString(record).features.feature
                return {name: function(feature[name]) for name, function in decoders.items()}
            except UserError:
                raise
            except (*NOT_AS_DESCRIBED, message.DecodeError) as error:
                reason = f'an example does not match the description ({error!r})'
                raise UserError(_half_written(self.path, reason)) from error

        return decode

    def examples(self, split: str, names: Sequence[str], size: int = 0) -> Iterator[dict[str, Any]]:
        """Returns an iterator over the examples of a split, in order, as decoded features `names`.

        Raises:
            ValueError: see `records` and `Features.decoder`.
        """
        return map(self.decoder(names, size), self.records(split))

    def columns(
        self, split: str, dtypes: Mapping[str, type], size: int = 0
    ) -> dict[str, np.ndarray]:
        """Returns features stacked over all examples: {name: array of shape (N, *shape)}.

        Args:
            split: name of the split.
            dtypes: {name of the feature: dtype of the array}.
            size: height and width of decoded images; 0 keeps the size of the images.

        Raises:
            ValueError: a feature does not have the same shape in all examples; see also `examples`.
        """
        n = self.sizes[split]
        stacked: dict[str, np.ndarray] = {}
        for i, example in enumerate(self.examples(split, list(dtypes), size)):
            for name, dtype in dtypes.items():
                value = np.asarray(example[name])
                if i == 0:
                    stacked[name] = np.empty((n, *value.shape), dtype)
                elif value.shape != stacked[name].shape[1:]:
                    raise UserError(
                        f'{self.path}: {name} of example {i} of split {split} has shape '
                        f'{value.shape}, but earlier examples have {stacked[name].shape[1:]}; '
                        'give the option size to resize all images'
                    )
                stacked[name][i] = value
        return stacked


def _array_records(path: pathlib.Path) -> Iterator[bytes]:
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        step = 1 << 14
        for start in range(0, reader.num_records(), step):
            yield from reader.read(start, min(start + step, reader.num_records()))
        if not reader.num_records():
            reader.read_all()  # raises an error if the file is damaged, not empty
    finally:
        reader.close()


def _tf_records(path: pathlib.Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file.

    A record consists of its length (8 bytes), the checksum of the length (4 bytes), the data, and
    the checksum of the data (4 bytes).
    """
    size = path.stat().st_size
    with path.open('rb') as file:
        while head := file.read(12):
            length, check = struct.unpack('<QI', head)
            if check != _masked_crc(head[:8]) or length > size:
                raise struct.error('the length of an example does not match its checksum')
            record, foot = file.read(length), file.read(4)
            if len(record) != length or len(foot) != 4:
                raise struct.error('the file ends within an example')
            if foot != struct.pack('<I', _masked_crc(record)):
                raise struct.error('an example does not match its checksum')
            yield record


def _masked_crc(data: bytes) -> int:
    """Returns TFRecord's checksum: CRC-32C, rotated by 15 bits and offset by a constant."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


_READERS = {'array_record': _array_records, 'tfrecord': _tf_records}


def _half_written(path: pathlib.Path, what: str) -> str:
    return f'{path}: {what}; delete that folder and prepare it again, or give another data_dir'

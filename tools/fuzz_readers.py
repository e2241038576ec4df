"""Feeds damaged and hostile files to every reader and reports the outcomes.

    python tools/fuzz_readers.py [--cases=2000] [--seed=0] [--only=wav,tfrecord]

Damages a valid file of each format at random: flips bits; cuts, repeats and inserts bytes; sets
sizes in headers to extremes; and replaces JSON values. A reader must return, or raise a `UserError`
or an OSError, within 5 seconds and 1 GiB of memory. Any other outcome is printed with the number of
the case, and the script ends with exit code 1. `--case=wav:17` runs only that case.
"""

import argparse
import collections
import copy
import faulthandler
import gzip
import io
import json
import pathlib
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import wave
from collections.abc import Callable

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

SECONDS, MEMORY = 5, 1 << 30
HUNG = 'no answer within 5 s'

Seeds = list[bytes]
Read = Callable[[pathlib.Path], object]


# --- damage ---------------------------------------------------------------------------------------

EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62]
JSON_VALUES = [None, True, -1, 0, 1e308, 10**30, '', 'x' * 300, '../../etc/passwd', [], {}, [[]]]
HOSTILE = [b'\x1b]0;title\x07', b'\x00', b'../', b'\xff\xfe', b'\xe2\x80\xa8', b'%s%n', b'{' * 3000]


def damage(data: bytes, rng: random.Random) -> bytes:
    """Returns `data` with one to four random changes."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice((_flip, _cut, _repeat, _insert, _set_number, _truncate))(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 8)) if changed else 0):
        changed[_place(changed, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _place(data, rng: random.Random) -> int:
    """Returns a random position, biased towards the first 64 bytes, where headers are."""
    return rng.randrange(min(len(data), rng.choice((64, len(data)))))


def _cut(data: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(data))
    return data[:start] + data[start + rng.randint(0, 64) :]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(data))
    return data[:start] + data[start : start + 64] * rng.choice((2, 50)) + data[start:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(data))
    return data[:start] + rng.choice((*HOSTILE, rng.randbytes(16))) + data[start:]


def _set_number(data: bytes, rng: random.Random) -> bytes:
    kind = rng.choice(('<B', '<H', '>H', '<I', '>I', '<Q', '>Q'))
    size = struct.calcsize(kind)
    if len(data) < size:
        return data
    start = min(_place(data, rng), len(data) - size)
    value = rng.choice(EXTREMES) & ((1 << 8 * size) - 1)
    return data[:start] + struct.pack(kind, value) + data[start + size :]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randint(0, len(data))]


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """Replaces, drops or adds a value in a JSON text; sometimes damages its bytes instead."""
    if rng.random() < 0.3:
        return damage(data, rng)
    content = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        holder = rng.choice(list(_holders(content)) or [content])
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            continue
        key, what = rng.choice(keys), rng.random()
        if what < 0.7:
            holder[key] = copy.deepcopy(rng.choice(JSON_VALUES))
        elif what < 0.85:
            del holder[key]
        elif isinstance(holder, dict):
            holder[f'{key}_'] = copy.deepcopy(holder[key])
        else:
            holder.append(copy.deepcopy(holder[key]))
    return json.dumps(content).encode()


def _holders(value):
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


# --- valid files and their readers ----------------------------------------------------------------


class Format:
    """A file format: valid examples, how to damage them, and the reader."""

    def __init__(self, seeds: Seeds, read: Read, harm=damage):
        self.seeds, self.read, self.harm = seeds, read, harm

    def case(self, number: int, seed: int) -> bytes:
        rng = random.Random(f'{seed} {number}')
        return self.harm(rng.choice(self.seeds), rng)


def images(folder: pathlib.Path) -> Format:
    from PIL import Image

    from cnn_jax.data import images

    seeds = []
    rng = np.random.default_rng(0)
    for mode, formats in {
        'RGB': ('PNG', 'JPEG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'PPM'),
        'L': ('PNG', 'JPEG', 'TIFF', 'PPM'),
        'P': ('PNG', 'GIF'),
        'RGBA': ('PNG', 'WEBP', 'TIFF'),
        'CMYK': ('JPEG', 'TIFF'),
        '1': ('PNG', 'BMP'),
        'I;16': ('PNG', 'TIFF'),
    }.items():
        shape = (19, 23) if mode == 'I;16' else (19, 23, 3)
        array = rng.integers(0, 255, shape).astype(np.uint16 if mode == 'I;16' else np.uint8)
        image = Image.fromarray(array)
        image = image if mode == 'I;16' else image.convert(mode)
        for name in formats:
            file = io.BytesIO()
            image.save(file, name)
            seeds.append(file.getvalue())
    return Format(seeds, lambda path: images.decode(path, 3, 16))


def masks(folder: pathlib.Path) -> Format:
    from PIL import Image

    from cnn_jax.data import images, masks

    seeds = []
    labels = np.random.default_rng(0).integers(0, 5, (19, 23)).astype(np.uint8)
    for mode in ('P', 'L', '1'):
        for name in ('PNG', 'GIF', 'BMP', 'TIFF'):
            file = io.BytesIO()
            Image.fromarray(labels).convert(mode).save(file, name)
            seeds.append(file.getvalue())
    return Format(seeds, lambda path: (images.size_of(path), masks.decode(path, 16)))


def wav(folder: pathlib.Path) -> Format:
    from cnn_jax.data import audio

    seeds = []
    for frames in (0, 100, 3000):
        file = io.BytesIO()
        with wave.open(file, 'wb') as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(np.arange(frames, dtype='<i2').tobytes())
        seeds.append(file.getvalue())
    return Format(seeds, lambda path: audio.read_wav(path, 8000))


def _text_dataset():
    from cnn_jax.data import Dataset

    return Dataset.described(
        {
            'name': 'texts',
            'kind': 'text',
            'input_shape': [12],
            'dtype': 'int32',
            'sizes': {'train': 1, 'test': 1},
            'class_names': ['no', 'yes'],
            'mean': [],
            'std': [],
            'meta': {'vocabulary': ['<pad>', '<unknown>', 'a', 'b'], 'lower': True, 'margin': 2},
        }
    )


def texts(folder: pathlib.Path) -> Format:
    from cnn_jax.training.prediction import read_inputs

    dataset = _text_dataset()
    seeds = ['a good film\nnot b\n\n…\n'.encode(), b'a\r\nb', 'ä\u2028b\x0cc\x85'.encode(), b'']
    return Format(seeds, lambda path: read_inputs(dataset, [str(path)]))


def idx(folder: pathlib.Path) -> Format:
    from cnn_jax.data.builders.mnist import read_idx

    pixels = np.arange(2 * 28 * 28, dtype=np.uint8)
    seeds = [
        b'\0\0\x08\x03' + struct.pack('>3I', 2, 28, 28) + pixels.tobytes(),
        b'\0\0\x08\x01' + struct.pack('>I', 2) + b'\1\2',
    ]

    def harm(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return gzip.compress(damage(data, rng))
        return damage(gzip.compress(data), rng)

    return Format(seeds, read_idx, harm)


def prepared_set(folder: pathlib.Path, file_format: str) -> tuple[pathlib.Path, list[bytes]]:
    """Writes a prepared set of images with labels; returns its folder and the records."""
    import PIL.Image
    from tensorflow_datasets.proto import tf_example_pb2

    path = folder / 'own_set' / '1.0.0'
    path.mkdir(parents=True)
    records = []
    for i in range(4):
        file = io.BytesIO()
        PIL.Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(file, 'PNG')
        example = tf_example_pb2.Example()
        example.features.feature['image'].bytes_list.value.append(file.getvalue())
        example.features.feature['label'].int64_list.value.append(i % 2)
        records.append(example.SerializeToString())
    splits = [
        {'name': name, 'shardLengths': ['4'], 'numBytes': str(sum(map(len, records)))}
        for name in ('train', 'test')
    ]
    info = {'name': 'own_set', 'version': '1.0.0', 'fileFormat': file_format, 'splits': splits}
    (path / 'dataset_info.json').write_text(json.dumps(info))
    base = 'tensorflow_datasets.core.features.'
    features = {
        'pythonClassName': base + 'features_dict.FeaturesDict',
        'featuresDict': {
            'features': {
                'image': {
                    'pythonClassName': base + 'image_feature.Image',
                    'image': {'shape': {'dimensions': ['8', '8', '1']}, 'dtype': 'uint8'},
                },
                'label': {
                    'pythonClassName': base + 'class_label_feature.ClassLabel',
                    'classLabel': {'numClasses': '2'},
                },
            }
        },
    }
    (path / 'features.json').write_text(json.dumps(features))
    for split in ('train', 'test'):
        shard = path / f'own_set-{split}.{file_format}-00000-of-00001'
        shard.write_bytes(_shard(records, file_format, folder))
    return path, records


def _shard(records: list[bytes], file_format: str, folder: pathlib.Path) -> bytes:
    if file_format == 'tfrecord':
        return b''.join(framed(record) for record in records)
    from array_record.python import array_record_module

    path = folder / 'shard'
    writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    for record in records:
        writer.write(record)
    writer.close()
    return path.read_bytes()


def framed(record: bytes) -> bytes:
    head = struct.pack('<Q', len(record))
    return head + _masked_crc(head) + record + _masked_crc(record)


def _masked_crc(data: bytes) -> bytes:
    """Returns TFRecord's checksum: a masked CRC-32C (tensorflow/core/lib/hash/crc32c.h)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack('<I', (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _in_prepared(folder: pathlib.Path, file_format: str, name: str) -> Format:
    """Damages one file of a prepared set and loads the set."""
    from cnn_jax import data

    path, _ = prepared_set(folder, file_format)
    name = name or f'own_set-test.{file_format}-00000-of-00001'

    def read(damaged: pathlib.Path) -> object:
        (path / name).write_bytes(damaged.read_bytes())
        loaded = data.load('own_set', data_dir=folder, download=False)
        return [split.inputs[:] for split in loaded.splits.values()]

    return Format([(path / name).read_bytes()], read, damage_json if 'json' in name else damage)


def example(folder: pathlib.Path) -> Format:
    """Damages an example inside a shard whose checksums are correct."""
    from cnn_jax import data

    path, records = prepared_set(folder, 'tfrecord')

    def read(damaged: pathlib.Path) -> object:
        shard = path / 'own_set-test.tfrecord-00000-of-00001'
        shard.write_bytes(b''.join(map(framed, [damaged.read_bytes(), *records[1:]])))
        loaded = data.load('own_set', data_dir=folder, download=False)
        return [split.inputs[:] for split in loaded.splits.values()]

    return Format(records, read)


def safetensors(folder: pathlib.Path) -> Format:
    from safetensors.numpy import save

    from cnn_jax.models import pretrained

    seeds = [save({'features.0.weight': np.ones((2, 3, 3, 3), np.float32), 'b': np.ones(2)})]
    return Format(seeds, lambda path: pretrained.read(path.rename(f'{path}.safetensors')))


def npz(folder: pathlib.Path) -> Format:
    from cnn_jax.viz import samples

    file = io.BytesIO()
    np.savez(file, images=np.ones((2, 4, 4, 1), np.float32), labels=np.arange(2))
    return Format([file.getvalue()], samples.read_grid)


def config(folder: pathlib.Path) -> Format:
    from cnn_jax.training import TrainConfig, read_config

    workdir = folder / 'run'
    workdir.mkdir()

    def read(path: pathlib.Path) -> object:
        (workdir / 'config.json').write_bytes(path.read_bytes())
        return read_config(workdir)

    return Format([TrainConfig().to_json().encode()], read, damage_json)


def dataset(folder: pathlib.Path) -> Format:
    from cnn_jax import data
    from cnn_jax.training import TrainConfig, Workdir

    workdir = Workdir(folder / 'run', TrainConfig())
    workdir.hold().close()
    described = [data.load('digits').describe(), _text_dataset().describe()]

    def read(path: pathlib.Path) -> object:
        (workdir.path / 'dataset.json').write_bytes(path.read_bytes())
        return workdir.described()

    return Format([json.dumps(each).encode() for each in described], read, damage_json)


FORMATS: dict[str, Callable[[pathlib.Path], Format]] = {
    'image': images,
    'mask': masks,
    'wav': wav,
    'text': texts,
    'idx': idx,
    'tfrecord': lambda folder: _in_prepared(folder, 'tfrecord', ''),
    'example': example,
    'array_record': lambda folder: _in_prepared(folder, 'array_record', ''),
    'dataset_info.json': lambda folder: _in_prepared(folder, 'tfrecord', 'dataset_info.json'),
    'features.json': lambda folder: _in_prepared(folder, 'tfrecord', 'features.json'),
    'safetensors': safetensors,
    'npz': npz,
    'config.json': config,
    'dataset.json': dataset,
}


# --- running --------------------------------------------------------------------------------------


def worker(name: str, seed: int, first: int, last: int) -> None:
    """Runs cases and prints one JSON line each; a reader that hangs or crashes ends the process."""
    from cnn_jax.errors import UserError

    warnings.simplefilter('ignore')
    sys.stderr = open('/dev/null', 'w')
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        here = FORMATS[name](folder)
        used = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        limit = used + (
            8 * MEMORY if name == 'array_record' else MEMORY
        )  # its threads reserve much address space
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in range(first, last):
            path = folder / f'case{number}'
            path.write_bytes(here.case(number, seed))
            print(json.dumps({'case': number}), flush=True)
            faulthandler.dump_traceback_later(SECONDS, exit=True, file=open('/dev/null', 'w'))
            try:
                here.read(path)
                outcome = 'read'
            except (UserError, OSError) as error:
                outcome = 'refused' if str(error) else 'refused without a word'
            except MemoryError:
                outcome = 'wrong: more than 1 GiB'
            except BaseException as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                outcome = f'wrong: {type(error).__name__} at {where.name}: {str(error)[:100]}'
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps({'outcome': outcome}), flush=True)
            path.unlink(missing_ok=True)


def run(name: str, seed: int, first: int, last: int) -> tuple[collections.Counter, dict[str, int]]:
    """Returns the counts of outcomes for one format, and the first case of each wrong outcome."""
    counts: collections.Counter = collections.Counter()
    examples: dict[str, int] = {}
    while first < last:
        command = [sys.executable, __file__, f'--worker={name}:{seed}:{first}:{last}']
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        number, ended = first - 1, True
        for line in process.stdout:
            row = json.loads(line)
            if 'case' in row:
                number, ended = row['case'], False
                continue
            ended = True
            outcome = row['outcome']
            counts[outcome.split(':')[0]] += 1
            if outcome.startswith('wrong') or 'without' in outcome:
                examples.setdefault(outcome, number)
        code = process.wait()
        if number < first:
            raise SystemExit(f'{name}: the worker did not start (exit code {code})')
        if not ended:
            counts['wrong'] += 1
            how = HUNG if code == 1 else f'the process ended with {code}'
            examples.setdefault(f'wrong: {how}', number)
        first = number + 1
    return counts, examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--cases', type=int, default=2000, help='damaged files of each format')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', default='', help=f'formats: {",".join(FORMATS)}')
    parser.add_argument('--case', default='', help='FORMAT:NUMBER, that one alone')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        name, *numbers = flags.worker.split(':')
        return worker(name, *map(int, numbers))
    if flags.case:
        name, number = flags.case.split(':')
        with tempfile.TemporaryDirectory() as temporary:
            folder = pathlib.Path(temporary)
            here = FORMATS[name](folder)
            path = folder / 'case'
            path.write_bytes(here.case(int(number), flags.seed))
            print(path.read_bytes()[:300])
            print(here.read(path))
        return None
    total, wrong = 0, 0
    print('| format | cases | read | refused in one line | wrong | s |\n|---|---|---|---|---|---|')
    found = {}
    for name in flags.only.split(',') if flags.only else FORMATS:
        start = time.monotonic()
        counts, examples = run(name, flags.seed, 0, flags.cases)
        seconds = time.monotonic() - start
        cases, bad = sum(counts.values()), counts['wrong'] + counts['refused without a word']
        total, wrong = total + cases, wrong + bad
        cells = name, cases, counts['read'], counts['refused'], bad, f'{seconds:.0f}'
        print('|', ' | '.join(map(str, cells)), '|', flush=True)
        found |= {f'{name}:{number}': outcome for outcome, number in examples.items()}
    for case, outcome in found.items():
        print(f'  --case={case}  {outcome}')
    print(f'{total} damaged files: {wrong} wrong')
    sys.exit(bool(wrong))


if __name__ == '__main__':
    main()

"""Small original files with the layout of the published ones, and builders that accept them."""

import gzip
import hashlib
import io
import pathlib
import struct
import tarfile
import wave

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from cnn_jax.data import builders
from cnn_jax.data.builders.base import derive


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes, gzipped."""
    header = b'\0\0\x08' + bytes([array.ndim]) + struct.pack(f'>{array.ndim}I', *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def mnist(train: int = 20, test: int = 10, seed: int = 0) -> tuple[dict[str, bytes], dict]:
    """MNIST's four files, and their content as {split: (images, labels)}."""
    rng = np.random.default_rng(seed)
    files, content = {}, {}
    for prefix, split, n in (('train', 'train', train), ('t10k', 'test', test)):
        images = rng.integers(0, 256, (n, 28, 28))
        labels = np.arange(n) % 10
        files[f'{prefix}-images-idx3-ubyte.gz'] = idx(images)
        files[f'{prefix}-labels-idx1-ubyte.gz'] = idx(labels)
        content[split] = images, labels
    return files, content


def tar(files: dict[str, bytes], mode: str = 'w:gz') -> bytes:
    """A tar archive of `files` with a folder entry and, if gzipped, names that begin with './'.

    Published archives have both.
    """
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        folder = tarfile.TarInfo('./a_folder')
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            member = tarfile.TarInfo(f'./{name}' if mode == 'w:gz' else name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def encoded(pixels: np.ndarray, form: str = 'PNG') -> bytes:
    """Encodes pixels of shape (H, W) or (H, W, C) as an image file."""
    out = io.BytesIO()
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(out, form)
    return out.getvalue()


def wav(samples: np.ndarray, rate: int = 16000, channels: int = 1, width: int = 2) -> bytes:
    """Encodes samples as a WAV file."""
    out = io.BytesIO()
    with wave.open(out, 'wb') as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(samples.tobytes())
    return out.getvalue()


def write(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    """Writes `files` into `folder`, which is created if necessary."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def accept(monkeypatch, name: str, files: dict[str, bytes]) -> None:
    """Registers `files` as the originals of `name`, in place of the published ones.

    The URLs and file names stay the same; the sizes and SHA-256 digests become those of `files`, so
    that all steps of verification and preparation run.
    """
    official = builders.builder_class(name)
    infos = {
        url: tfds.core.download.checksums.UrlInfo(
            size=tfds.core.units.Size(len(files[info.filename])),
            checksum=hashlib.sha256(files[info.filename]).hexdigest(),
            filename=info.filename,
        )
        for url, info in official.url_infos.items()
        if info.filename in files
    }
    small = derive(official, name.partition('/')[0], originals=official.originals, url_infos=infos)
    found = builders.builder_class
    monkeypatch.setattr(
        builders, 'builder_class', lambda wanted: small if wanted == name else found(wanted)
    )

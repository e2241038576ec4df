"""MNIST and the sets published in its IDX format (http://yann.lecun.com/exdb/mnist/)."""

import gzip
import math
import struct
import zlib

import numpy as np
import PIL.Image
from tensorflow_datasets.image_classification import mnist as official

from cnn_jax.data.builders.base import derive
from cnn_jax.errors import UserError

_OFFICIAL = {
    'mnist': official.MNIST,
    'fashion_mnist': official.FashionMNIST,
    'kmnist': official.KMNIST,
}
MOST_BYTES = 1 << 29  # unpacked; MNIST's largest file has 47 MB
_FILES = {'train': 'train', 'test': 't10k'}


def read_idx(path) -> np.ndarray:
    """A gzipped IDX file of unsigned bytes as an array.

    Raises:
        ValueError: not such a file, or its length does not fit its header.
    """
    try:
        with gzip.open(path, 'rb') as file:
            data = file.read(MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f'{path} is not a gzip file that can be read ({error})') from error
    if len(data) > MOST_BYTES:
        raise UserError(f'{path} has more than {MOST_BYTES} bytes unpacked: not an IDX file')
    if len(data) < 4 or data[:3] != b'\0\0\x08' or len(data) < 4 + 4 * data[3]:
        raise UserError(f'{path} is not an IDX file of unsigned bytes')
    ndim = data[3]
    shape = struct.unpack_from(f'>{ndim}I', data, 4)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * ndim)
    if values.size != math.prod(shape):
        raise UserError(f'{path}: has {values.size} bytes for an array of shape {shape}')
    return values.reshape(shape)


def _split_generators(self, dl_manager):
    urls = {
        f'{split} {what}': f'{self.URL}{prefix}-{what}-ubyte.gz'
        for split, prefix in _FILES.items()
        for what in ('images-idx3', 'labels-idx1')
    }
    paths = dl_manager.download(urls)
    return {
        split: self._generate_examples(paths[f'{split} images-idx3'], paths[f'{split} labels-idx1'])
        for split in _FILES
    }


def _generate_examples(self, images, labels):
    del self
    for key, (image, label) in enumerate(zip(read_idx(images), read_idx(labels), strict=True)):
        yield key, {'image': PIL.Image.fromarray(image), 'label': int(label)}


def make(name: str) -> type:
    """The builder of 'mnist', 'fashion_mnist' or 'kmnist'."""
    return derive(
        _OFFICIAL[name],
        name,
        _split_generators=_split_generators,
        _generate_examples=_generate_examples,
    )

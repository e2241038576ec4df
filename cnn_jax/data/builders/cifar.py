"""CIFAR-10 and CIFAR-100, binary version (https://www.cs.toronto.edu/~kriz/cifar.html)."""

import numpy as np
import PIL.Image
from tensorflow_datasets.image_classification import cifar as official

from cnn_jax.data.builders.base import derive, tar_files
from cnn_jax.errors import UserError

_OFFICIAL = {'cifar10': official.Cifar10, 'cifar100': official.Cifar100}
_PIXELS = 3 * 32 * 32


def _split_generators(self, dl_manager):
    about = self._cifar_info
    path = dl_manager.download(about.url)
    content = dict(tar_files(path))

    def file(name):
        return content[f'{about.prefix}{name}']

    for label, names in zip(about.label_keys, about.label_files, strict=True):
        self.info.features[label].names = file(names).decode().split()
    return {
        split: self._generate_examples(f'{split}_', b''.join(map(file, files)))
        for split, files in (('train', about.train_files), ('test', about.test_files))
    }


def _generate_examples(self, prefix, data):
    keys = self._cifar_info.label_keys
    size = len(keys) + _PIXELS
    if len(data) % size:
        raise UserError(f'{self.name}: {len(data)} bytes are not a multiple of {size}')
    for i, row in enumerate(np.frombuffer(data, np.uint8).reshape(-1, size)):
        image = row[len(keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
        yield (
            i,
            {
                'id': f'{prefix}{i:05d}',
                'image': PIL.Image.fromarray(np.ascontiguousarray(image)),
                **{key: int(label) for key, label in zip(keys, row, strict=False)},
            },
        )


def make(name: str) -> type:
    """The builder of 'cifar10' or 'cifar100'."""
    return derive(
        _OFFICIAL[name],
        name,
        _split_generators=_split_generators,
        _generate_examples=_generate_examples,
    )

"""ImageNet 2012 (https://image-net.org) and Imagenette (https://github.com/fastai/imagenette)."""

import io
import pathlib
import posixpath
import tarfile

import tensorflow_datasets as tfds
from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as imagenet2012
from tensorflow_datasets.datasets.imagenette import imagenette_dataset_builder as imagenette

from cnn_jax.data.builders.base import derive, tar_files

TRAIN, VALIDATION = 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar'


def _imagenette_splits(self, dl_manager):
    folder = self.builder_config.dirname
    path = dl_manager.download(f'https://s3.amazonaws.com/fast-ai-imageclas/{folder}.tgz')
    return {
        split: self._generate_examples(path, f'{folder}/{name}')
        for split, name in (('train', 'train'), ('validation', 'val'))
    }


def _imagenette_examples(self, archive, folder):
    del self
    for path, content in tar_files(archive):
        parent, file = posixpath.split(path)
        above, label = posixpath.split(parent)
        if above == folder and file.endswith('.JPEG'):
            yield file, {'image': io.BytesIO(content), 'label': label}


def _imagenet_splits(self, dl_manager):
    folder = pathlib.Path(dl_manager.manual_dir)
    labels = pathlib.Path(tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt'))
    with tarfile.open(folder / VALIDATION) as archive:
        images = sorted(posixpath.normpath(m.name) for m in archive if m.isfile())
    of_image = dict(zip(images, labels.read_text().split(), strict=False))
    return {
        'train': self._generate_examples(folder / TRAIN, None),
        'validation': self._generate_examples(folder / VALIDATION, of_image),
    }


def _imagenet_examples(self, archive, label_of_image):
    """JPEG files as they are (a few are CMYK, one is PNG: they become RGB where they are read)."""
    del self

    def example(file, content, label):
        return file, {'file_name': file, 'image': io.BytesIO(content), 'label': label}

    for path, content in tar_files(archive):
        if label_of_image is not None:
            yield example(path, content, label_of_image[path])
            continue
        # An archive of archives, one per class, named after it.
        for file, image in tar_files(io.BytesIO(content)):
            yield example(file, image, path.removesuffix('.tar'))


def make(name: str) -> type:
    """The builder of 'imagenette' or 'imagenet2012'."""
    if name == 'imagenette':
        return derive(
            imagenette.Builder,
            name,
            _split_generators=_imagenette_splits,
            _generate_examples=_imagenette_examples,
            originals=lambda self: [f'{self.builder_config.dirname}.tgz'],
        )
    return derive(
        imagenet2012.Builder,
        name,
        _split_generators=_imagenet_splits,
        _generate_examples=_imagenet_examples,
        originals=lambda self: [TRAIN, VALIDATION],
        url_infos={},  # the addresses registered are of no use without an account
    )

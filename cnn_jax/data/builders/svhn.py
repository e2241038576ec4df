"""Street View House Numbers, cropped (http://ufldl.stanford.edu/housenumbers/)."""

import numpy as np
import PIL.Image
import scipy.io
from tensorflow_datasets.datasets.svhn_cropped import svhn_cropped_dataset_builder as official

from cnn_jax.data.builders.base import derive
from cnn_jax.errors import UserError


def _generate_examples(self, split_prefix, filepath):
    del self
    data = scipy.io.loadmat(filepath)
    labels = data['y'].reshape(-1)
    wrong = labels[(labels < 1) | (labels > 10)]
    if wrong.size:
        raise UserError(f'{filepath}: label {wrong[0]} is outside 1..10')
    for i, label in enumerate(labels):
        image = PIL.Image.fromarray(np.ascontiguousarray(data['X'][..., i]))
        # The digit 0 is written as 10.
        yield i, {'id': f'{split_prefix}{i:06d}', 'image': image, 'label': int(label) % 10}


def make(name: str) -> type:
    """The builder of 'svhn_cropped'."""
    return derive(official.Builder, name, _generate_examples=_generate_examples)

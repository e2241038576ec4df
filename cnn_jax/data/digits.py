"""Reads scikit-learn's handwritten digits, 1797 real 8x8 images that come with the package.

The images are the test set of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and
Kaynak, 1998, https://doi.org/10.24432/C50P49). Each pixel counts the set pixels in a 4x4 block of a
32x32 bitmap, so the values are in 0..16.
"""

import importlib.metadata
import pathlib

import numpy as np

from cnn_jax.data.dataset import Split

CLASS_NAMES = tuple(map(str, range(10)))
_TEST_EVERY = 5


def _file() -> pathlib.Path:
    """Returns the file that `sklearn.datasets.load_digits` reads; importing that takes a second."""
    distribution = importlib.metadata.distribution('scikit-learn')
    return pathlib.Path(str(distribution.locate_file('sklearn/datasets/data/digits.csv.gz')))


def read() -> dict[str, Split]:
    """Returns the splits 'train' (1442 examples) and 'test' (355 examples).

    The images are uint8 of shape (8, 8, 1) with the values 0, 15, ..., 240. The test split is every
    fifth example of each class in file order. It is fixed, so that results can be compared.
    """
    table = np.loadtxt(_file(), np.uint8, delimiter=',')  # a row per image, its label last
    # A factor of 15 maps the counts 0..16 to most of the uint8 range without rounding.
    images = table[:, :-1].reshape(-1, 8, 8, 1) * np.uint8(15)
    labels = table[:, -1].astype(np.int32)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[_TEST_EVERY - 1 :: _TEST_EVERY]] = True
    return {
        'train': Split(images[~test], labels[~test]),
        'test': Split(images[test], labels[test]),
    }

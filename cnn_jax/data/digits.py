"""scikit-learn's handwritten digits: 1797 real 8x8 images that come with the package.

They are the test part of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak,
1998, https://doi.org/10.24432/C50P49): bitmaps of 32x32 counted in blocks of 4x4, so 0..16.
"""

import numpy as np

from cnn_jax.data.dataset import Split

CLASS_NAMES = tuple(map(str, range(10)))
_TEST_EVERY = 5


def read() -> dict[str, Split]:
    """The splits 'train' (1442) and 'test' (355), images (8, 8, 1) uint8 in 0, 15, ..., 240.

    Of each class every fifth example, in the order of the file, is a test example: fixed, so that
    figures can be compared.
    """
    from sklearn.datasets import load_digits  # 1 s

    digits = load_digits()
    # Times 15: the counts 0..16 nearly fill a byte and stay exact.
    images = (digits.images * 15).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[_TEST_EVERY - 1 :: _TEST_EVERY]] = True
    return {
        'train': Split(images[~test], labels[~test]),
        'test': Split(images[test], labels[test]),
    }

"""Generates MNIST-1D: synthetic signals of 40 samples in ten classes.

Greydanus and Kobak, "Scaling Down Deep Learning with MNIST-1D", ICML 2024, arXiv:2011.14439.
"""

import random

import numpy as np

from cnn_jax.data.dataset import Split
from cnn_jax.data.order import epoch_order

LENGTH = 40


def generate() -> dict[str, Split]:
    """Returns the published data set (4000 + 1000 examples), computed by its package `mnist1d`.

    The package seeds NumPy's and Python's global random generators; their states are restored.

    Raises:
        ModuleNotFoundError: `mnist1d` is not installed.
    """
    from mnist1d.data import get_dataset_args, make_dataset

    states = np.random.get_state(), random.getstate()
    try:
        made = make_dataset(get_dataset_args())
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
    return {
        'train': _split(made['x'], made['y']),
        'test': _split(made['x_test'], made['y_test']),
    }


def _split(signals: np.ndarray, labels: np.ndarray) -> Split:
    return Split(signals.astype(np.float32)[..., None], labels.astype(np.int32))


def shuffle(split: Split) -> Split:
    """Returns the signals with their samples permuted; all signals share one permutation.

    The permutation keeps all information but destroys locality. The paper uses this data set to
    test whether a model exploits locality, with a different permutation.
    """
    return Split(split.inputs[:, epoch_order(0, 0, LENGTH)], split.labels, split.extra)

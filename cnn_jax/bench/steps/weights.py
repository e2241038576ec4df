"""Random weights by name, with NumPy alone, so that a process without JAX can make the same."""

import math
from collections.abc import Iterable, Mapping

import numpy as np


def random_weights(shapes: Mapping[str, Iterable[int]], seed: int = 0) -> dict[str, np.ndarray]:
    """Returns a float32 array for every name, with the layout of this package.

    Kernels (*window, in, out) are normal with variance 2 / fan-in (He et al. 2015,
    arXiv:1502.01852). Scales and variances are one; biases and means are zero.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        shape = tuple(shape)
        if len(shape) > 1:
            std = (2 / math.prod(shape[:-1])) ** 0.5
            weights[name] = np.float32(std) * rng.standard_normal(shape, np.float32)
        else:
            weights[name] = np.full(shape, not name.endswith(('bias', 'mean')), np.float32)
    return weights

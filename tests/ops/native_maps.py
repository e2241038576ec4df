"""Compares the three maps of a native kernel with float64."""

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.bench.kernels import reference
from tests.ops.tolerance import assert_close


def compare_maps(compute, spec, lengths, factor=1.0):
    """Compares `compute(op, a, b)` on random operands with the reference, for every map.

    `lengths` are the numbers of products in a sum of each map, and `factor` is the kernel's.
    """
    rng = np.random.default_rng(0)
    x, w, dy = (
        jnp.asarray(rng.normal(size=s), spec.dtype)
        for s in (spec.x_shape, spec.kernel_shape, spec.y_shape)
    )
    maps = {'forward': (x, w), 'input_grad': (dy, w), 'filter_grad': (x, dy)}
    for (op, operands), length in zip(maps.items(), lengths, strict=True):
        actual = jax.jit(lambda a, b, op=op: compute(op, a, b))(*operands)
        assert_close(actual, reference.MAPS[op](*operands, spec), length, factor, f'{op} of {spec}')

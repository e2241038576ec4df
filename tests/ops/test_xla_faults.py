"""Tests that our operations avoid faults of XLA that the fuzzer found (docs/fuzzing.md)."""

import jax
import numpy as np
import pytest

import cnn_jax
from cnn_jax.bench.fuzz import conv_oracle as oracle
from tests.ops.tolerance import assert_close


@pytest.mark.parametrize('implementation', ['lax', None])
@pytest.mark.parametrize('holes', [1, 2])
@pytest.mark.parametrize('size, padding', [(7, (-3, 2)), (1, (-3, 6))])
def test_crop_before_and_padding_after(implementation, holes, size, padding):
    """XLA:CPU reads out of bounds, so it gets an input that is already cropped, and padded."""
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=s).astype('float32') for s in ((2, size, 2), (4, 2, 3)))
    options = {
        'strides': (2,),
        'padding': (padding,),
        'dilation': (1,),
        'input_dilation': (holes,),
        'groups': 1,
    }
    dy = np.ones(oracle.conv(x, w, **options).shape, 'float32')

    @jax.jit
    def run(x, w):
        conv = lambda x, w: cnn_jax.conv(x, w, implementation=implementation, **options)  # noqa: E731
        y, vjp = jax.vjp(conv, x, w)
        return y, *vjp(dy)

    for found, wanted in zip(run(x, w), oracle.conv(x, w, dy, **options), strict=True):
        assert_close(found, wanted, 20)

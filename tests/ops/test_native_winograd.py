"""Tests of the native Winograd kernels on problems of many blocks, and on other instruction sets.

test_conv_kernels.py and test_kernel_numbers.py run them on small problems.
"""

import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax.bench.kernels import reference
from cnn_jax.ops import kernels
from cnn_jax.ops.kernels.native import onednn
from cnn_jax.ops.kernels.native.winograd import TRANSFORMED, compute, tile
from tests.ops.test_kernel_numbers import make_spec
from tests.ops.tolerance import FACTOR, assert_close

NAME = 'native_winograd'
SMALL = make_spec((1, 4, 4, 1), (3, 3, 1, 1))
pytestmark = pytest.mark.skipif(
    kernels.reason_against(NAME, 'forward', SMALL, 'cpu') is not None,
    reason='no native kernel here',
)

# Many tiles of few features, whose filter gradient each thread adds up alone; many features, whose
# filter gradient all threads share, in one block and in several. No size divides by a vector.
PROBLEMS = {
    'few features': ((4, 61, 35, 19), 37, ((1, 1), (1, 1))),
    'many features': ((2, 13, 9, 130), 141, ((1, 1), (0, 2))),
    'several blocks': ((5, 33, 18, 130), 141, ((2, 2), (0, 1))),
}


def compare(problem, outputs, dtype='float32'):
    """Compares the three maps with float64, in tiles of `outputs`."""
    shape, features, padding = PROBLEMS[problem]
    spec = make_spec(shape, (3, 3, shape[-1], features), padding=padding).replace(dtype=dtype)
    rng = np.random.default_rng(0)
    x, w, dy = (
        jnp.asarray(rng.normal(size=s), dtype)
        for s in (spec.x_shape, spec.kernel_shape, spec.y_shape)
    )
    lengths = (9 * spec.in_features, 9 * spec.out_features, math.prod(spec.y_shape[:-1]))
    maps = {'forward': (x, w), 'input_grad': (dy, w), 'filter_grad': (x, dy)}
    for (op, operands), length in zip(maps.items(), lengths, strict=True):
        actual = jax.jit(lambda a, b, op=op: compute(op, a, b, spec, outputs))(*operands)
        expected = reference.MAPS[op](*operands, spec)
        assert_close(actual, expected, length, FACTOR[NAME], f'{op} of {problem}')


@pytest.mark.parametrize('problem', PROBLEMS)
@pytest.mark.parametrize('outputs', TRANSFORMED)
def test_many_blocks(outputs, problem):
    compare(problem, outputs)


def test_bfloat16_rounds_to_nearest_and_keeps_nan():
    compare('few features', 4, 'bfloat16')

    def conv(x, second):
        w = jnp.zeros((3, 3, 1, 1), 'bfloat16').at[0, 0].set(1).at[1, 1].set(second)
        return cnn_jax.conv(x, w, padding='VALID', implementation=NAME).item()

    ones = jnp.ones((1, 3, 3, 1), 'bfloat16')
    assert math.isnan(conv(ones * math.nan, 0))
    # The neighbours of 1 + 2^-8 are equally far, and 1 is the even one.
    assert conv(ones, 2**-8) == 1 and conv(ones, 3 * 2**-8) == 1 + 2**-6


@pytest.mark.parametrize('outputs', TRANSFORMED)
def test_errors_are_about_twice_those_of_the_direct_form(outputs):
    rng = np.random.default_rng(0)
    spec = make_spec((2, 16, 16, 256), (3, 3, 256, 32), padding=1)
    x = np.maximum(rng.normal(size=spec.x_shape), 0).astype(np.float32)
    w = rng.normal(size=spec.kernel_shape).astype(np.float32)
    expected = reference.forward(x, w, spec)
    error = lambda y: np.linalg.norm(np.asarray(y, np.float64) - expected)  # noqa: E731
    assert error(compute('forward', x, w, spec, outputs)) < 3 * error(onednn.forward(x, w, spec))


def test_the_tile_suits_the_image():
    tiles = {n: tile(make_spec((64, n, n, 64), (3, 3, 64, 64), padding=1)) for n in (2, 4, 6, 28)}
    assert tiles == {2: 2, 4: 4, 6: 2, 28: 4}


def test_avx2():
    code = (
        'from tests.ops.test_native_winograd import compare\n'
        "compare('few features', 2), compare('few features', 4), compare('many features', 4)\n"
        "compare('few features', 4, 'bfloat16')\n"
    )
    environment = os.environ | {'ONEDNN_MAX_CPU_ISA': 'AVX2'}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)

"""Tests of the native Winograd kernels on problems of many blocks, and on other instruction sets.

test_conv_kernels.py and test_kernel_numbers.py run them on small problems.
"""

import math
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax.bench.kernels import reference
from cnn_jax.ops import kernels
from cnn_jax.ops.kernels.native import onednn
from cnn_jax.ops.kernels.native.winograd import TRANSFORMED, compute, tile
from tests.ops.native_maps import compare_maps
from tests.ops.test_kernel_numbers import make_spec
from tests.ops.tolerance import FACTOR

NAME = 'native_winograd'
SMALL = make_spec((1, 4, 4, 1), (3, 3, 1, 1))
pytestmark = pytest.mark.skipif(
    kernels.reason_against(NAME, 'forward', SMALL, 'cpu') is not None,
    reason='no native kernel here',
)

# Many tiles of few features, whose filter gradient each thread adds up alone; many features, whose
# filter gradient all threads share, in one block and in several. No size divides by a vector.
PROBLEMS = {
    'few features': make_spec((4, 61, 35, 19), (3, 3, 19, 37), padding=1),
    'many features': make_spec((2, 13, 9, 130), (3, 3, 130, 141), padding=((1, 1), (0, 2))),
    'several blocks': make_spec((5, 33, 18, 130), (3, 3, 130, 141), padding=((2, 2), (0, 1))),
}
# Windows with 2 or 3 taps of each phase of a stride, or fewer if the stride does not divide them.
STRIDED = {
    '2x2': make_spec((3, 13, 10, 33), (2, 2, 33, 35), padding=((0, 1), (1, 0))),
    '4x4': make_spec((2, 21, 18, 19), (4, 4, 19, 37), strides=2, padding=((1, 1), (1, 2))),
    '4x3, many features': make_spec((2, 19, 21, 66), (4, 3, 66, 141), strides=2, padding=1),
    '5x5': make_spec((2, 14, 23, 18), (5, 5, 18, 20), strides=2, padding=((2, 2), (1, 3))),
    'strides differ': make_spec((2, 7, 19, 5), (2, 12, 5, 6), (1, 6), padding=((1, 0), (5, 7))),
    'one pixel': make_spec((2, 1, 1, 18), (4, 4, 18, 33), strides=2, padding=((2, 3), (1, 3))),
    'sequence': make_spec((3, 203, 18), (8, 18, 21), strides=4, padding=((2, 3),)),
}


def compare(spec, outputs, dtype='float32'):
    """Compares the three maps with float64, in tiles of `outputs`."""
    spec = spec.replace(dtype=dtype)
    taps = math.prod(spec.window)
    compare_maps(
        lambda op, a, b: compute(op, a, b, spec, outputs),
        spec,
        (taps * spec.in_features, taps * spec.out_features, math.prod(spec.y_shape[:-1])),
        FACTOR[NAME],
    )


@pytest.mark.parametrize('problem', PROBLEMS)
@pytest.mark.parametrize('outputs', TRANSFORMED[3])
def test_many_blocks(outputs, problem):
    compare(PROBLEMS[problem], outputs)


@pytest.mark.parametrize('problem', STRIDED)
def test_strides_fall_into_phases(problem):
    compare(STRIDED[problem], 4)


def test_windows_without_2_or_3_taps_in_each_phase_are_refused():
    for window, strides in (((4, 4), 1), ((7, 7), 2), ((2, 2), 2), ((3, 3), (1, 2))):
        spec = make_spec((1, 9, 9, 2), (*window, 2, 2), strides)
        assert 'needs 2 or 3 taps' in kernels.reason_against(NAME, 'forward', spec, 'cpu')


def test_bfloat16_rounds_to_nearest_and_keeps_nan():
    compare(PROBLEMS['few features'], 4, 'bfloat16')

    def conv(x, second):
        w = jnp.zeros((3, 3, 1, 1), 'bfloat16').at[0, 0].set(1).at[1, 1].set(second)
        return cnn_jax.conv(x, w, padding='VALID', implementation=NAME).item()

    ones = jnp.ones((1, 3, 3, 1), 'bfloat16')
    assert math.isnan(conv(ones * math.nan, 0))
    # The neighbours of 1 + 2^-8 are equally far, and 1 is the even one.
    assert conv(ones, 2**-8) == 1 and conv(ones, 3 * 2**-8) == 1 + 2**-6


@pytest.mark.parametrize('taps, outputs', [(2, 4), (3, 2), (3, 4)])
def test_errors_are_about_twice_those_of_the_direct_form(taps, outputs):
    rng = np.random.default_rng(0)
    spec = make_spec((2, 16, 16, 256), (taps, taps, 256, 32), padding=1)
    x = np.maximum(rng.normal(size=spec.x_shape), 0).astype(np.float32)
    w = rng.normal(size=spec.kernel_shape).astype(np.float32)
    expected = reference.forward(x, w, spec)
    error = lambda y: np.linalg.norm(np.asarray(y, np.float64) - expected)  # noqa: E731
    assert error(compute('forward', x, w, spec, outputs)) < 3 * error(onednn.forward(x, w, spec))


def test_the_tile_suits_the_image():
    spec = lambda n: make_spec((64, n, n, 64), (3, 3, 64, 64), padding=1)  # noqa: E731
    tiles = {n: tile(spec(n), 'forward') for n in (2, 4, 6, 28)}
    assert tiles == {2: 2, 4: 4, 6: 2, 28: 4}


def test_avx2():
    code = (
        'from tests.ops.test_native_winograd import PROBLEMS, STRIDED, compare\n'
        "few, many = PROBLEMS['few features'], PROBLEMS['many features']\n"
        "compare(few, 2), compare(few, 4), compare(many, 4), compare(few, 4, 'bfloat16')\n"
        "compare(STRIDED['4x4'], 4)\n"
    )
    environment = os.environ | {'ONEDNN_MAX_CPU_ISA': 'AVX2'}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)

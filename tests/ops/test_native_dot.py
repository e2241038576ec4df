"""Tests of the native pointwise kernel on counts of features and positions of many kinds.

test_conv_kernels.py and test_kernel_numbers.py run it on small problems.
"""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.ops import kernels, tuning
from cnn_jax.ops.kernels.native import dot
from cnn_jax.ops.spec import MAPS
from tests.ops.native_maps import compare_maps
from tests.ops.test_kernel_numbers import make_spec

NAME = 'native_dot'
pytestmark = pytest.mark.skipif(
    kernels.reason_against(NAME, 'forward', make_spec((1, 4, 4, 1), (1, 1, 1, 1)), 'cpu')
    is not None,
    reason='no native kernel here',
)

# Shape of x and output features, mostly few on one side. The others below, at and between multiples
# of a vector and of a panel of two; more positions than float32 adds up.
PROBLEMS = {
    'one number': ((1, 1, 1, 1), 1),
    'few of each': ((2, 3, 5, 3), 2),
    'few outputs': ((2, 9, 7, 40), 3),
    'few inputs': ((2, 9, 7, 2), 48),
    'a panel': ((3, 5, 8, 32), 4),
    'a vector': ((3, 12, 13, 16), 1),
    'a vector after a panel': ((1, 6, 7, 2), 48),
    'between vectors': ((2, 5, 7, 19), 2),
    'between panels': ((2, 5, 7, 3), 41),
    'many features': ((1, 20, 23, 300), 3),
    'many positions': ((2, 80, 61, 20), 4),
    'one position': ((1, 1, 1, 300), 4),
    '1-D': ((3, 40, 35), 2),
    '3-D': ((2, 3, 4, 5, 3), 9),
    'many of each': ((2, 9, 7, 40), 50),
}


def compare(problem, dtype='float32'):
    """Compares the three maps with float64."""
    shape, outputs = PROBLEMS[problem]
    window = (1,) * (len(shape) - 2)
    spec = make_spec(shape, (*window, shape[-1], outputs)).replace(dtype=dtype)
    positions = np.prod(spec.y_shape[:-1])
    compare_maps(
        lambda op, a, b: getattr(dot, op)(a, b, spec), spec, (shape[-1], outputs, positions)
    )


@pytest.mark.parametrize('problem', PROBLEMS)
def test_values(problem):
    compare(problem)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_16_bit_floats(dtype):
    compare('many positions', dtype)


def test_sums_of_many_positions_keep_their_digits():
    """Parts are added up in float64: 2^20 terms of 1 + 2^-12, and their sum in float32."""
    spec = make_spec((16, 256, 256, 3), (1, 1, 3, 17))
    x, dy = jnp.full(spec.x_shape, 1 + 2**-12, 'float32'), jnp.ones(spec.y_shape, 'float32')
    np.testing.assert_allclose(dot.filter_grad(x, dy, spec), (1 + 2**-12) * 2**20, rtol=1e-6)


def test_is_the_default_for_few_features():
    def chosen(inputs, outputs, dtype='float32', **options):
        shapes = (8, 28, 28, inputs), (1, 1, inputs, outputs)
        spec = make_spec(*shapes, **options).replace(dtype=dtype)
        return [next(iter(tuning.ranked(op, spec, 'cpu')))[0] == NAME for op in MAPS]

    assert chosen(64, 64) == chosen(64, 8) == chosen(3, 3) == [False, False, False]
    assert chosen(64, 3) == [True, False, True]
    assert chosen(16, 3) == [False, False, True]
    assert chosen(3, 64) == [False, True, False]
    assert chosen(50, 3) == [False, False, True]
    assert chosen(64, 3, dtype='bfloat16') == chosen(64, 3, strides=2) == [False] * 3


def test_avx2_with_three_threads():
    code = (
        'from tests.ops.test_native_dot import PROBLEMS, compare\n'
        'for problem in PROBLEMS: compare(problem)\n'
    )
    environment = os.environ | {'ONEDNN_MAX_CPU_ISA': 'AVX2', 'OMP_NUM_THREADS': '3'}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)

"""Tests of the native depthwise kernel on windows, strides and features of many kinds.

test_conv_kernels.py and test_kernel_numbers.py run it on small problems.
"""

import math
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax.ops import kernels, tuning
from cnn_jax.ops.kernels.native import depthwise, onednn
from cnn_jax.ops.spec import MAPS
from tests.ops.native_maps import compare_maps
from tests.ops.test_kernel_numbers import make_spec

NAME = 'native_depthwise'
SMALL = make_spec((1, 4, 4, 1), (3, 3, 1, 1))
pytestmark = pytest.mark.skipif(
    kernels.reason_against(NAME, 'forward', SMALL, 'cpu') is not None,
    reason='no native kernel here',
)

# Shape of x, window, and options. Features below, at and between multiples of a vector; outputs
# that fill no block; windows wider than the image; padding that no window needs.
PROBLEMS = {
    'few features': ((2, 9, 7, 5), (3, 3), {'padding': 1}),
    'one feature': ((1, 3, 3, 1), (3, 3), {'padding': 2}),
    'a vector': ((3, 12, 13, 16), (3, 3), {'padding': 1}),
    'vectors that overlap': ((2, 9, 10, 19), (3, 3), {'padding': 1}),
    'strides': ((2, 9, 8, 33), (3, 3), {'strides': 2, 'padding': ((1, 1), (0, 1))}),
    'a stride above the window': ((1, 7, 7, 20), (1, 1), {'strides': 3}),
    'unequal': (
        (1, 8, 11, 33),
        (5, 4),
        {'strides': (2, 3), 'dilation': (2, 1), 'padding': ((3, 0), (2, 5))},
    ),
    'wide window': ((2, 2, 3, 17), (7, 7), {'padding': 3}),
    'padding alone': ((1, 4, 4, 16), (3, 3), {'padding': ((5, 5), (0, 7))}),
    'many taps': ((3, 20, 23, 48), (7, 7), {'padding': 3}),
    'three outputs per group': ((2, 6, 7, 18), (3, 2), {'padding': 1, 'strides': 2}, 18, 54),
    'three inputs per group': ((2, 6, 7, 54), (3, 2), {'padding': 1, 'strides': 2}, 18, 18),
    '1-D': ((3, 40, 35), (9,), {'strides': 3, 'dilation': 2, 'padding': ((1, 4),)}),
}


def compare(problem, dtype='float32'):
    """Compares the three maps with float64."""
    shape, window, options, *rest = PROBLEMS[problem]
    groups, outputs = rest or (shape[-1], shape[-1])
    spec = make_spec(shape, (*window, shape[-1] // groups, outputs), groups=groups, **options)
    spec = spec.replace(dtype=dtype)
    taps = math.prod(window)
    compare_maps(
        lambda op, a, b: getattr(depthwise, op)(a, b, spec),
        spec,
        (taps, taps, math.prod(spec.y_shape[:-1])),
    )


@pytest.mark.parametrize('problem', PROBLEMS)
def test_values(problem):
    compare(problem)


@pytest.mark.parametrize(
    'problem',
    [
        'vectors that overlap',
        'strides',
        'many taps',
        'three outputs per group',
        'three inputs per group',
    ],
)
def test_bfloat16(problem):
    compare(problem, 'bfloat16')


def test_nan_reaches_only_the_windows_that_contain_it():
    x = jnp.ones((1, 8, 8, 19)).at[0, 3, 4, 18].set(math.nan)
    y = cnn_jax.conv(x, jnp.ones((3, 3, 1, 19)), padding=1, groups=19, implementation=NAME)
    expected = np.zeros((8, 8, 19), bool)
    expected[2:5, 3:6, 18] = True
    np.testing.assert_array_equal(np.isnan(y[0]), expected)


def test_sums_of_many_images_keep_their_digits():
    """Sums of images are added up in float64: 2^20 terms of 1 + 2^-12, and their sum in float32."""
    spec = make_spec((256, 64, 64, 16), (1, 1, 1, 16), groups=16)
    x, dy = jnp.full(spec.x_shape, 1 + 2**-12, 'float32'), jnp.ones(spec.y_shape, 'float32')
    dw = depthwise.filter_grad(x, dy, spec)
    np.testing.assert_allclose(dw, (1 + 2**-12) * 2**20, rtol=1e-6)


def test_is_the_default_where_onednn_has_no_form_of_its_own():
    def chosen(window, dtype='float32', strides=1, features=32):
        spec = make_spec(
            (8, 28, 28, features),
            (window, window, 1, features),
            strides=strides,
            padding=window // 2,
            groups=features,
        ).replace(dtype=dtype)
        return [next(iter(tuning.ranked(op, spec, 'cpu')))[0] == NAME for op in MAPS]

    assert chosen(3) == [False, False, False]
    assert chosen(5) == chosen(7, strides=2) == [False, False, True]
    assert chosen(5, features=8) == [False, False, False]
    assert chosen(3, features=256) == [False, False, True]
    if onednn.bfloat16_rate() > 0:
        assert chosen(3, 'bfloat16', strides=2) == [False, True, False]


def test_avx2():
    code = (
        'from tests.ops.test_native_depthwise import PROBLEMS, compare\n'
        'for problem in PROBLEMS: compare(problem)\n'
        "compare('many taps', 'bfloat16')\n"
    )
    environment = os.environ | {'ONEDNN_MAX_CPU_ISA': 'AVX2'}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True)

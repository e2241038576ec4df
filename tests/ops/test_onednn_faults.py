"""Tests that results are right where those of oneDNN 3.2 are wrong (docs/kernels.md)."""

import numpy as np
import pytest

from cnn_jax.bench.kernels import reference
from cnn_jax.ops import kernels, tuning
from tests.ops.test_onednn import make_spec, native, operands, run
from tests.ops.tolerance import assert_close

# In bfloat16: no window fits, or windows are dilated and features do not fill vectors.
WRONG_IN_BFLOAT16 = {
    '2x2': make_spec((16, 2, 2, 256), (3, 3, 256, 256), 1, 1, dtype='bfloat16'),
    'first axis': make_spec((1, 2, 3, 8, 32), (3, 3, 1, 32, 32), 1, (1, 1, 0), dtype='bfloat16'),
    'last axis': make_spec((5, 9, 1, 256), (3, 5, 256, 256), 1, (1, 2), dtype='bfloat16'),
    'every window leaves': make_spec((5, 2, 32), (2, 16, 16), 3, ((1, 0),), 1, 2, 'bfloat16'),
    'sequence': make_spec((5, 1, 48), (5, 48, 16), 3, ((3, 1),), dtype='bfloat16'),
    'dilated': make_spec((1, 34, 33, 17), (3, 3, 17, 9), 1, 2, 2, dtype='bfloat16'),
    'dilated in rows': make_spec((2, 9, 40, 21), (3, 3, 21, 5), 1, 1, (1, 2), dtype='bfloat16'),
    'dilated in columns': make_spec((2, 40, 9, 5), (3, 2, 5, 21), 1, 1, (2, 1), dtype='bfloat16'),
    'dilated groups': make_spec((1, 36, 36, 16), (3, 3, 4, 16), 1, 2, 2, 4, 'bfloat16'),
    'dilated depthwise': make_spec((1, 40, 40, 16), (3, 3, 1, 16), 1, 2, 2, 16, 'bfloat16'),
}


@native
@pytest.mark.parametrize('name', WRONG_IN_BFLOAT16)
def test_bfloat16_filter_gradients(name):
    """Tests gradients that oneDNN gets wrong with AVX512-BF16 and the kernel avoids."""
    spec = WRONG_IN_BFLOAT16[name]
    x, w, dy = operands(spec)
    wanted = reference.filter_grad(np.asarray(x), np.asarray(dy), spec)
    assert_close(run('filter_grad', x, w, dy, spec), wanted, spec.batch * np.prod(spec.output_size))


WRONG_IN_FLOAT32 = {
    'padding of 15': make_spec((2, 50, 16), (3, 16, 16), 2, 15, 10),
    'padding of 20': make_spec((2, 50, 16), (3, 16, 16), 2, 20, 10),
    'padding on one side': make_spec(
        (1, 49, 55, 8), (9, 9, 4, 2), (3, 2), ((4, 0), (16, 6)), (1, 2), 2
    ),
    'no window fits': make_spec((1, 5, 15, 10, 3), (9, 2, 3, 3, 1), 1, ((8, 2), (1, 1), (1, 2))),
    'no window of a group fits': make_spec(
        (1, 5, 15, 10, 6), (5, 2, 3, 3, 2), (3, 3, 2), ((4, 2), (1, 1), (1, 2)), 1, 2
    ),
}


@native
@pytest.mark.parametrize('name', WRONG_IN_FLOAT32)
def test_float32_filter_gradients(name):
    """Tests that the default is right where oneDNN is wrong."""
    spec = WRONG_IN_FLOAT32[name]
    x, _, dy = operands(spec)
    function = kernels.function(tuning.choose('filter_grad', spec, 'cpu')[0], 'filter_grad')
    wanted = reference.filter_grad(np.asarray(x), np.asarray(dy), spec)
    assert_close(function(x, dy, spec), wanted, spec.batch * np.prod(spec.output_size))

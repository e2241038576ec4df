"""Tests of the chunks of images and of rows that `im2col` and `winograd` compute at a time."""

import jax
import numpy as np
import pytest

from cnn_jax.bench.fuzz import conv_oracle as oracle
from cnn_jax.ops import kernels
from cnn_jax.ops.kernels import im2col, winograd
from cnn_jax.ops.kernels.chunks import Chunks, plan
from cnn_jax.ops.spec import ConvSpec
from tests.ops.tolerance import FACTOR, assert_close


def spec(size, window, *, batch=6, stride=1, dilation=1, padding=(1, 2), features=(16, 5)):
    n = len(size)
    return ConvSpec(
        batch, size, features[0], window, features[1], (stride,) * n, (padding,) * n, (1,) * n,
        (dilation,) * n, 1, 'float32',
    )  # fmt: skip


SPECS = {
    'winograd': [
        spec((23, 18), (3, 3)),
        spec((40,), (3,)),
        spec((9, 6, 7), (3, 3, 3), batch=2),
    ],
    'im2col': [
        spec((23, 18), (3, 3), stride=2),
        spec((23, 18), (2, 3), stride=3, dilation=2),
        spec((40,), (4,), stride=2),
        spec((9, 6, 7), (3, 2, 1), batch=2),
    ],
}
BYTES = {'one image': 20_000, 'rows': 1, 'everything': 1 << 30}


@pytest.mark.parametrize('budget', BYTES)
@pytest.mark.parametrize('name', SPECS)
def test_the_size_of_a_chunk_changes_nothing(name, budget, monkeypatch):
    monkeypatch.setattr(winograd, 'CHUNK_BYTES', BYTES[budget])
    monkeypatch.setattr(im2col, 'PATCH_BYTES', BYTES[budget])
    rng = np.random.default_rng(0)
    for case in SPECS[name]:
        x, w, dy = (
            rng.normal(size=shape).astype(np.float32)
            for shape in (case.x_shape, case.kernel_shape, case.y_shape)
        )
        y, dx, dw = oracle.conv(
            x,
            w,
            dy,
            strides=case.strides,
            padding=case.padding,
            dilation=case.dilation,
            input_dilation=case.input_dilation,
            groups=1,
        )
        for op, a, b, wanted, length in (
            ('forward', x, w, y, w[..., 0].size),
            ('input_grad', dy, w, dx, w[..., 0, :].size),
            ('filter_grad', x, dy, dw, dy[..., 0].size),
        ):
            compute = kernels.function(name, op)
            actual = jax.jit(lambda a, b, compute=compute, case=case: compute(a, b, case))(a, b)
            assert_close(actual, wanted, length, FACTOR.get(name, 1.0), f'{op} of {name}: {case}')


def test_chunks_are_of_equal_size_and_near_to_the_budget():
    assert plan(64, 8, 100, 100 * 8 * 15) == Chunks(images=16, rows=8, parts=1, total=4)
    assert plan(4, 28, 100, 100 * 8) == Chunks(images=1, rows=7, parts=4, total=16)
    assert plan(1, 29, 100, 100 * 10) == Chunks(images=1, rows=29, parts=1, total=1)  # 29 is prime

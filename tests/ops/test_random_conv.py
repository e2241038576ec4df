"""Tests of every kernel against the oracle on randomly generated convolutions.

`CNN_JAX_EXAMPLES` sets the number of examples. The 12 default examples are the same in every run;
if the variable is set, the examples are random.
"""

import os

import jax
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cnn_jax
from cnn_jax.bench.fuzz import conv_oracle as oracle
from cnn_jax.ops import kernels
from tests.ops.conv_cases import Case
from tests.ops.tolerance import assert_close

EXAMPLES = int(os.environ.get('CNN_JAX_EXAMPLES', '12'))


@st.composite
def cases(draw):
    n = draw(st.integers(1, 3))
    most = (9, 6, 4)[n - 1]
    ints = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(n))  # noqa: E731
    size, window, strides = ints(1, most), ints(1, 4), ints(1, 3)
    dilation = tuple(draw(st.sampled_from([1, 1, 2, 3])) for _ in range(n))
    holes = tuple(draw(st.sampled_from([1, 1, 1, 2])) for _ in range(n))
    padding = []
    for s, k, d, e in zip(size, window, dilation, holes, strict=True):
        lo, hi = draw(st.integers(-1, 3)), draw(st.integers(-1, 3))
        missing = (k - 1) * d + 1 - ((s - 1) * e + 1 + lo + hi)
        padding.append((lo, hi + max(missing, 0)))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    c, o = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    x = (draw(st.integers(1, 2)), *size, c * groups)
    return Case(
        'random', x, (*window, c, o * groups), strides, tuple(padding), dilation, holes, groups
    )


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize='CNN_JAX_EXAMPLES' not in os.environ,
    suppress_health_check=list(HealthCheck),
)
@given(cases())
def test_random_convolutions(case):
    x, w = case.operands()
    shape = oracle.conv(x, w, **case.resolved()).shape
    dy = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    expected = oracle.conv(x, w, dy, **case.resolved())
    ran = 0
    for name in kernels.KERNELS:

        def run(x, w, dy, name=name):
            conv = lambda x, w: cnn_jax.conv(x, w, implementation=name, **case.arguments())  # noqa: E731
            y, vjp = jax.vjp(conv, x, w)
            return y, *vjp(dy)

        try:
            result = jax.jit(run)(x, w, dy)
        except ValueError as error:
            assert 'cannot run with implementation' in str(error)
            continue
        ran += 1
        for actual, wanted in zip(result, expected, strict=True):
            # at least 1, because the sums of N(0, 1) operands may cancel
            scale = max(1.0, np.abs(wanted).max(initial=0))
            assert_close(actual, wanted, case.reduction, 4.0, name, scale)
    assert ran >= 3

"""Tests of every kernel against the oracle and PyTorch on randomly generated pools.

`CNN_JAX_EXAMPLES` sets the number of examples. The 8 default examples are the same in every run;
if the variable is set, the examples are random.
"""

import dataclasses
import os

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnn_jax.ops import pool, pool_kernels
from tests.compilation import x64
from tests.ops.pool_cases import Case, everything
from tests.ops.test_pool import check, supported
from tests.ops.tolerance import assert_close

EXAMPLES = int(os.environ.get('CNN_JAX_EXAMPLES', '8'))


@st.composite
def cases(draw, like_torch=False):
    op = draw(st.sampled_from(['max_pool', 'avg_pool']))
    n = draw(st.integers(1, 2 if like_torch else 3))
    most = (9, 7, 4)[n - 1]
    window = tuple(draw(st.integers(1, 4)) for _ in range(n))
    # PyTorch has no dilation in average pools
    holes = 1 if like_torch and op == 'avg_pool' else 2
    dilation = tuple(draw(st.integers(1, holes)) for _ in range(n))
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    if like_torch:
        padding = tuple(draw(st.integers(0, k // 2)) for k in window)
        pairs = [(p, p) for p in padding]
    else:
        padding = pairs = tuple(
            (draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in spans
        )
    size = tuple(
        draw(st.integers(max(1, k - sum(p)), max(1, k - sum(p)) + most))
        for k, p in zip(spans, pairs, strict=True)
    )
    # None, because otherwise strides rarely equal the window, as one of the kernels requires
    strides = draw(st.sampled_from([None, tuple(draw(st.integers(1, 4)) for _ in range(n))]))
    options = {'ceil_mode': draw(st.booleans()), 'dilation': dilation if max(dilation) > 1 else 1}
    if op == 'avg_pool':
        options['count_include_pad'] = draw(st.booleans())
        options['divisor_override'] = draw(st.sampled_from([None, None, 3]))
    x = (draw(st.integers(1, 2)), *size, draw(st.integers(1, 2)))
    case = Case('random', op, x, window, strides, padding, **options)
    sees_padding_only = any(
        all(not 0 <= i < m for i in along)
        for m, windows in zip(size, case.axes(), strict=True)
        for along in windows
    )
    return dataclasses.replace(case, count_include_pad=True) if sees_padding_only else case


limited = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize='CNN_JAX_EXAMPLES' not in os.environ,
    suppress_health_check=list(HealthCheck),
)


@limited
@given(cases())
def test_random_pools(case):
    for kernel in pool_kernels.KERNELS:
        if run := supported(case, kernel):
            check(case, run, np.float32)


@limited
@given(cases(like_torch=True))
def test_torch_agrees(case):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra: compare)')
    x = case.operand(np.float64)
    t = torch.tensor(x).movedim(-1, 1).contiguous().requires_grad_()
    options = {name: value for name, value in case.arguments().items() if name != 'window'}
    if case.strides is not None:
        options['stride'] = options.pop('strides')
    if case.ndim == 1:
        if options.pop('divisor_override', None):
            return  # PyTorch has this option in 2-D and 3-D only
    if case.op == 'max_pool':
        options['return_indices'] = True
    theirs = getattr(torch.nn.functional, f'{case.op}{case.ndim}d')(t, case.window, **options)
    with x64():
        run = lambda x: getattr(pool, case.op)(x, **case.arguments())  # noqa: E731
        dy = np.random.default_rng(1).normal(size=jax.eval_shape(run, x).shape)
        y, dx, *_ = everything(run)(x, dy, x)
        if case.op == 'max_pool':
            theirs, at = theirs
            _, indices = pool.max_pool(x, **case.arguments(), return_indices=True)
            np.testing.assert_array_equal(indices, at.movedim(1, -1))
    theirs.backward(torch.tensor(dy).movedim(-1, 1))
    assert_close(y, theirs.detach().movedim(1, -1).numpy(), case.reduction)
    assert_close(dx, t.grad.movedim(1, -1).numpy(), case.reduction)


@pytest.mark.parametrize('ndim, p', [(1, 2.5), (2, 1), (3, 2)])
def test_torch_agrees_on_lp_pool(ndim, p):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra: compare)')
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 6)[: ndim + 1] + (2,))
    x[0] = 0
    t = torch.tensor(x).movedim(-1, 1).contiguous().requires_grad_()
    window, stride = (2, 3, 2)[:ndim], (2, 2, 3)[:ndim]
    lp_pool = getattr(torch.nn.functional, f'lp_pool{ndim}d')
    if ndim == 1:
        window, stride = window[0], stride[0]
    theirs = lp_pool(t if p == 2 else t.abs(), p, window, stride, ceil_mode=True)
    theirs.sum().backward()
    with x64():
        window, stride = (window, stride) if ndim > 1 else ((window,), (stride,))
        run = lambda x: pool.lp_pool(x, p, window, stride, ceil_mode=True)  # noqa: E731
        theirs = theirs.detach().movedim(1, -1)
        y, gradient, *_ = everything(run)(x, np.ones(theirs.shape), x)
        np.testing.assert_allclose(y, theirs, rtol=1e-12)
        np.testing.assert_allclose(gradient, t.grad.movedim(1, -1), rtol=1e-12)

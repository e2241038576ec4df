"""The check of one kernel: every pass of every problem, wrong results, refusals, unknown names."""

import types

import pytest

from cnn_jax.bench.kernels import check, compare, suites
from cnn_jax.bench.kernels.problem import parse
from cnn_jax.errors import UserError
from cnn_jax.ops import kernels

SMALL = ['mb1_ic2ih4oc2kh3ph1', 'mb1_ic2ih5oc2kh3sh2ph1']


def test_lax_is_right_everywhere():
    rows = check.kernel('lax', dtypes=['float32'])
    assert len(rows) == len(suites.CHECKS) * len(compare.PASSES)
    assert all(row.right for row in rows)


def test_a_gradient_that_is_wrong_and_a_stride_that_is_refused(monkeypatch):
    lax = kernels.KERNELS['lax']
    wrong = types.SimpleNamespace(
        forward=lax.forward,
        input_grad=lambda dy, w, spec: 2 * lax.input_grad(dy, w, spec),
        supports=lambda spec, op, platform: 'strides' if spec.strides != (1, 1) else None,
    )
    monkeypatch.setitem(kernels.KERNELS._values, 'wrong', wrong)
    rows = check.kernel('wrong', SMALL, ['float32', 'bfloat16'])
    assert [row.right for row in rows] == [True, False, True] * 2 + [None] * 6
    heads, first, _, refused, _ = check.summary(rows).splitlines()
    assert heads.split()[:3] == ['problem', 'dtype', 'forward']
    assert first.split()[:2] == [SMALL[0], 'float32'] and first.count('WRONG 1e+00') == 1
    assert refused.split()[2:] == ['-', '-', '-', 'strides']


def test_the_suite_has_every_kind():
    specs = [parse(text).spec() for text in suites.CHECKS]
    assert {spec.ndim for spec in specs} == {1, 2, 3}
    assert any(lo != hi for spec in specs for lo, hi in spec.padding)
    for name in ('strides', 'dilation'):
        assert any(max(getattr(spec, name)) > 1 for spec in specs)
    assert {spec.groups for spec in specs} == {1, 2, 4}


def test_an_unknown_kernel():
    with pytest.raises(UserError, match="unknown kernel 'minee'"):
        check.kernel('minee')

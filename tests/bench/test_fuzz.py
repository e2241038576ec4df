"""Tests of the fuzzer, and a few of its cases on our operations, the same in every run."""

import random

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnn_jax.bench.fuzz import cases, check, conv_oracle, expected, oracle, ours, programs, shrink
from cnn_jax.bench.fuzz.source import source


def test_our_operations_are_right():
    drawn = [ours.draw(random.Random(number)) for number in range(24)]
    for number, verdict in enumerate(check.verdicts(drawn, ours.build)):
        assert verdict.kind == 'right', (number, verdict)


def test_a_fault_is_found_and_reduced():
    """The seeded fault: XLA's product with one wrong sign where features are counted."""

    def build(case):
        run = programs.program(case)
        return lambda *a: tuple(-y if case['op'] == 'dot' else y for y in run(*a))

    some = [cases.draw(random.Random(n), wide=False) for n in range(8)]
    found = check.verdicts(some, build)
    wrong = [c for c, v in zip(some, found, strict=True) if v.kind == 'wrong']
    assert wrong and all(c['op'] == 'dot' for c in wrong)
    assert all(v.kind == 'right' for c, v in zip(some, found, strict=True) if c['op'] != 'dot')
    simpler = list(shrink.simplifications(wrong[0]))
    assert simpler
    for case in simpler[:3]:
        assert [y.value.shape for y in expected.results(case)]


def test_the_source_of_a_case_computes_the_case():
    namespace = {}
    case = cases.draw(random.Random(3), wide=False)
    exec(source(case), namespace)
    wanted = expected.results(case)[0]
    assert (np.abs(namespace['error']) <= wanted.allowed).all()


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_the_two_references_agree(r):
    spec = cases.conv.draw(r)
    if spec['batch_groups'] > 1:
        return
    spec['layout'] = [sorted(order) for order in spec['layout']]
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape) for shape in cases.conv.shapes(spec))
    dy = rng.normal(size=cases.conv.output_shape(spec))
    y, dx, dw = conv_oracle.conv(
        x, w, dy, strides=spec['strides'], padding=spec['padding'], dilation=spec['dilation'],
        input_dilation=spec['holes'], groups=spec['groups'],
    )  # fmt: skip
    np.testing.assert_allclose(cases.conv.forward(spec, x, w), y, atol=1e-12)
    for found, wanted in zip(cases.conv.pullback(spec, (x, w), dy), (dx, dw), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_pad_is_inverted_where_it_crops():
    geometry = oracle.Window((5,), (2,), (1,), ((-2, 3),), (1,), (2,))
    x = np.arange(10.0).reshape(1, 5, 2)
    ct = np.random.default_rng(0).normal(size=oracle.pad(x, geometry).shape)
    left, right = (oracle.pad(x, geometry) * ct).sum(), (x * oracle.unpad(ct, x.shape, geometry))
    np.testing.assert_allclose(left, right.sum())

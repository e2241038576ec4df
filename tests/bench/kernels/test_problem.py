"""Tests of problem strings: their meaning, round trips, and error messages."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax.bench.kernels.problem import from_spec, parse
from cnn_jax.ops.spec import ConvSpec


@pytest.mark.parametrize(
    ('text', 'input_size', 'window', 'output_size', 'macs'),
    [
        ('mb64_ic32ih28oc64kh3sh1ph1g1', (28, 28), (3, 3), (28, 28), 64 * 28 * 28 * 9 * 32 * 64),
        ('mb16ic1iw8000oc64kw80sw4', (8000,), (80,), (1981,), 16 * 1981 * 80 * 64),
        ('mb2_ic3id16oc8kd3pd1', (16,) * 3, (3,) * 3, (16,) * 3, 2 * 16**3 * 27 * 24),
        ('g4ic4ih5iw7oc8kh3kw1ph1pw0', (5, 7), (3, 1), (5, 7), 35 * 3 * 8),
        ('ic3ih9oc4kh3dh1', (9, 9), (3, 3), (5, 5), 25 * 9 * 12),
        ('ic3ih224oc4kh3sh2oh112', (224, 224), (3, 3), (112, 112), 112**2 * 9 * 12),
        ('conv_transpose:mb2ic8ih8oc4kh4sh2ph1', (8, 8), (4, 4), (16, 16), 2 * 64 * 16 * 32),
        ('conv_transpose:ic2ih3oc2kh3sh2ph1oh6', (3, 3), (3, 3), (6, 6), 9 * 9 * 4),
        ('max_pool:mb2ic3ih28kh2sh2', (28, 28), (2, 2), (14, 14), 2 * 3 * 14 * 14 * 4),
    ],
)
def test_meaning(text, input_size, window, output_size, macs):
    problem = parse(text)
    assert (problem.input_size, problem.window) == (input_size, window)
    assert problem.output_size == output_size
    assert problem.macs == macs
    assert parse(str(problem)) == problem


def test_same_padding_of_a_stride_is_said_by_the_output_size():
    problem = parse('ic3ih224oc4kh3sh2oh112')
    assert problem.padding == ((0, 1), (0, 1))
    assert problem.spec().output_size == (112, 112)
    assert 'oh112' in str(problem)


def test_spec_of_a_transposed_convolution_is_the_one_it_transposes():
    problem = parse('conv_transpose:ic8ih8oc4kh4sh2ph1')
    spec = problem.spec('bfloat16')
    assert (spec.input_size, spec.output_size) == ((16, 16), (8, 8))
    assert (spec.in_features, spec.out_features, spec.dtype) == (4, 8, 'bfloat16')
    assert from_spec(spec, 'conv_transpose') == problem


def test_bytes():
    assert parse('mb2ic3iw10oc4kw3').bytes(4) == 4 * (2 * 10 * 3 + 2 * 8 * 4 + 3 * 3 * 4)
    assert parse('avg_pool:mb2ic3iw10kw2sw2').bytes(2) == 2 * (60 + 30)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'no input size'),
        ('mb64', 'no input size'),
        ('mb64_ic32ih28oc64kh3x', "cannot read 'x'"),
        ('mb-1ic3ih8oc4kh3', "cannot read 'mb-1ic3ih8oc4kh3'"),
        ('ic3ih8kh3', 'oc is missing'),
        ('ih8oc3kh3', 'ic is missing'),
        ('ic3ih8oc4', 'kh is missing'),
        ('ic3iw8oc4kw3kh3', 'iw is missing|ih is missing'),
        ('ic3iw8oc4kw3sh2', 'sh names an axis'),
        ('ic3ic4ih8oc4kh3', 'ic is given twice'),
        ('mb0ic3ih8oc4kh3', 'mb0 must be at least 1'),
        ('ic3ih8oc4kh3sh0', 'sh0 must be at least 1'),
        ('ic3ih8oc4kh3g2', 'g2 must divide ic3 and oc4'),
        ('ic3ih2oc4kh3', 'the window spans 3 on axis h, but the padded input has 2'),
        ('ic3ih8oc4kh3oh3', 'oh3 is impossible: with ph0 it is oh6'),
        ('conv_transpose:ic1ih2oc1kh1ph3', 'crops everything'),
        ('conv_transpose:ic1ih2oc1kh1oh9', 'oh9 is impossible'),
        ('max_pool:ic3ih8oc4kh2', 'omit oc4'),
        ('deconv:ic3ih8oc4kh2', "unknown operation 'deconv'; must be one of conv, conv_transpose"),
    ],
)
def test_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(text)
    assert repr(text) in str(caught.value) and '\n' not in str(caught.value)


small = st.integers(1, 4)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), ndim=st.integers(1, 3), groups=st.integers(1, 2))
def test_round_trip_of_any_spec(data, ndim, groups):
    axis = st.tuples(*[small] * ndim)
    pad = st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * ndim)
    spec = ConvSpec(
        batch=data.draw(small),
        input_size=data.draw(st.tuples(*[st.integers(10, 14)] * ndim)),
        in_features=groups * data.draw(small),
        window=data.draw(axis),
        out_features=groups * data.draw(small),
        strides=data.draw(axis),
        padding=data.draw(pad),
        input_dilation=(1,) * ndim,
        dilation=data.draw(st.tuples(*[st.integers(1, 2)] * ndim)),
        groups=groups,
        dtype='float32',
    )
    problem = from_spec(spec)
    again = parse(str(problem))
    # Padding that no output position reaches appears neither in the string nor in the result.
    assert again.output_size == problem.output_size == spec.output_size
    assert again.spec().replace(padding=()) == spec.replace(padding=())
    assert [lo for lo, _ in again.padding] == [lo for lo, _ in spec.padding]


def test_input_dilation_cannot_be_said():
    spec = parse('ic1iw9oc1kw3').spec().replace(input_dilation=(2,))
    with pytest.raises(ValueError, match='cannot express input_dilation'):
        from_spec(spec)

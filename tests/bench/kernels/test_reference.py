"""Tests of the oracle itself against SciPy, against the definition, and by adjointness."""

import numpy as np
import pytest
from scipy import ndimage

from cnn_jax.bench.kernels import reference
from cnn_jax.bench.kernels.problem import parse

RNG = np.random.default_rng(0)


def operands(spec):
    return [RNG.normal(size=s) for s in (spec.x_shape, spec.kernel_shape, spec.y_shape)]


def test_one_channel_is_scipy_correlation():
    spec = parse('mb2ic1ih7iw9oc1kh3kw5ph1pw2').spec()
    x, w, _ = operands(spec)
    y = reference.forward(x, w, spec)
    for example in range(2):
        expected = ndimage.correlate(x[example, ..., 0], w[..., 0, 0], mode='constant')
        np.testing.assert_allclose(y[example, ..., 0], expected, rtol=1e-12)


def test_definition_with_strides_dilation_groups():
    spec = parse('g2mb2ic4iw11oc6kw3sw2pw1dw1').spec()
    x, w, _ = operands(spec)
    expected = np.zeros(spec.y_shape)
    for n, i, o, k, c in np.ndindex(2, spec.output_size[0], 6, 3, 2):
        position = 2 * i + 2 * k - 1
        if 0 <= position < 11:
            expected[n, i, o] += x[n, position, 2 * (o // 3) + c] * w[k, c, o]
    np.testing.assert_allclose(reference.forward(x, w, spec), expected, rtol=1e-12)


@pytest.mark.parametrize(
    'text',
    ['g2mb2ic4ih7iw6oc6kh3kw2sh2ph1dh1', 'mb2ic3iw8oc2kw5sw3pw2', 'mb1ic2id4oc3kd2sd2ih5iw3'],
)
@pytest.mark.parametrize('input_dilation', [1, 2])
def test_gradients_are_adjoint_to_the_forward_map(text, input_dilation):
    spec = parse(text).spec()
    spec = spec.replace(input_dilation=(input_dilation,) * spec.ndim)
    x, w, dy = operands(spec)
    inner = np.vdot(reference.forward(x, w, spec), dy)
    np.testing.assert_allclose(np.vdot(x, reference.input_grad(dy, w, spec)), inner, rtol=1e-10)
    np.testing.assert_allclose(np.vdot(w, reference.filter_grad(x, dy, spec)), inner, rtol=1e-10)


@pytest.mark.parametrize('text', ['mb4ic6ih5oc6kh3ph1', 'g3mb4ic6ih5oc6kh3ph1'])
@pytest.mark.parametrize('op', reference.MAPS)
def test_a_part_equals_that_part_of_the_whole(text, op):
    spec = parse(text).spec()
    x, w, dy = operands(spec)
    a, b = {'forward': (x, w), 'input_grad': (dy, w), 'filter_grad': (x, dy)}[op]
    whole = reference.MAPS[op](a, b, spec)
    smaller, a, b, cut, note = reference.part(op, spec, a, b, spec.macs / 2)
    assert smaller.macs < spec.macs and ' of ' in note
    np.testing.assert_allclose(reference.MAPS[op](a, b, smaller), cut(whole), rtol=1e-12)
    assert reference.part(op, spec, a, b, spec.macs)[-1] == ''


def test_relative_error():
    assert reference.relative_error([1.0, 1.0], [1.0, 1.0]) == 0
    assert reference.relative_error([1.1, 1.0], [1.0, 0.0]) == pytest.approx(1.01**0.5)
    assert reference.relative_error([np.nan, 1.0], [1.0, 1.0]) == np.inf
    with pytest.raises(ValueError, match='shape'):
        reference.relative_error([1.0], [1.0, 2.0])


def test_tolerance_separates_float32_from_a_16_bit_result():
    spec = parse('mb8ic64ih16oc64kh3ph1').spec()
    for op in reference.MAPS:
        assert reference.tolerance('float32', spec, op) < 2e-5
        assert 5e-3 < reference.tolerance('bfloat16', spec, op) < 2e-2

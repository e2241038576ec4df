"""Tests of output sizes, explained padding and receptive fields."""

import jax
import numpy as np
import pytest

import cnn_jax


def test_output_size_is_that_of_conv():
    x, w = np.zeros((1, 9, 7, 1), np.float32), np.zeros((3, 2, 1, 1), np.float32)
    for arguments in (
        {'padding': 'SAME', 'strides': (2, 3)},
        {'padding': 'VALID', 'dilation': 2},
        {'padding': ((0, 3), (1, -1)), 'input_dilation': (2, 1)},
        {'padding': 'SAME_LOWER', 'strides': 4},
    ):
        shape = jax.eval_shape(lambda x, w, a=arguments: cnn_jax.conv(x, w, **a), x, w).shape
        assert cnn_jax.output_size((9, 7), (3, 2), **arguments) == shape[1:3]
    with pytest.raises(ValueError, match='spans 10'):
        cnn_jax.output_size(9, 10, padding='VALID')


def test_explain_padding_says_what_each_convention_does():
    text = cnn_jax.explain_padding(7, 4, strides=2)
    rows = {line.split('  ')[0]: line for line in text.splitlines()}
    # 'SAME': ceil(7 / 2) = 4 outputs span 3 * 2 + 4 = 10, so 3 positions are added, 2 of them after
    assert '(1, 2)' in rows['SAME'] and rows['SAME'].endswith(' 4')
    assert '(2, 1)' in rows['SAME_LOWER']
    assert '(3, 0)' in rows['CAUSAL']
    assert rows['VALID'].endswith(' 2')
    assert rows['padding=1 (PyTorch)'].endswith(' 3')
    # transposed: the full output has (7 - 1) * 2 + 4 = 16 positions; 'SAME' keeps 7 * 2 of them
    assert rows['torch VALID'].endswith(' 16') and rows['keras SAME'].endswith(' 14')
    assert 'window does not fit' in cnn_jax.explain_padding(2, 5)
    assert '(8, 9)' in cnn_jax.explain_padding((8, 9), 3)


def test_receptive_field_of_a_known_stack():
    # VGG-16 up to its last pool: size 212, stride 32 (Araujo et al. 2019, table 1)
    vgg = []
    for convs in (2, 2, 3, 3, 3):
        vgg += [(3, 1, 1)] * convs + [(2, 2)]
    field = cnn_jax.receptive_field(vgg)
    assert (field.size, field.stride) == (212, 32)


@pytest.mark.parametrize(
    'layers', [[(3, 2, 1), (2, 3, 0), (3, 1, 2, 2)], [(5, 1), (4, 4, 1)], [(1, 2), (3, 1, 1)]]
)
def test_receptive_field_is_where_the_gradient_is(layers):
    def net(x):
        for window, stride, *rest in layers:
            padding, dilation = (*rest, *(0, 1)[len(rest) :])
            w = np.ones((window, 1, 1), np.float32)
            x = cnn_jax.conv(x, w, strides=stride, padding=padding, dilation=dilation)
        return x

    x = np.ones((64, 1), np.float32)
    middle = 3
    reached = np.flatnonzero(jax.grad(lambda x: net(x)[middle, 0])(x)[:, 0])
    field = cnn_jax.receptive_field(layers)
    first = field.start + middle * field.stride
    assert reached[0] == max(first, 0)
    assert reached[-1] == first + field.size - 1


def test_bad_layers():
    with pytest.raises(ValueError, match=r'layers\[1\]'):
        cnn_jax.receptive_field([(3, 1), (3,)])
    with pytest.raises(ValueError, match=r'layers\[0\] stride'):
        cnn_jax.receptive_field([(3, 0)])

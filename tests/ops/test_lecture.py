"""Tests of both kernels on the examples of the lecture "CNN and PyTorch", step by step."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import cnn_jax
from cnn_jax.ops import filters

pytestmark = pytest.mark.optimized

BOTH = pytest.mark.parametrize('implementation', ['lax', 'scan'])


def conv2d(image, kernel, implementation, **arguments):
    """Convolves an image of one channel to one channel."""
    y = cnn_jax.conv(
        np.asarray(image, np.float32)[..., None],
        np.asarray(kernel, np.float32)[..., None, None],
        implementation=implementation,
        **{'padding': 'VALID', **arguments},
    )
    return np.asarray(y)[..., 0]


@BOTH
def test_the_formula_on_a_small_matrix(implementation):
    image = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    kernel = [[0, 1], [2, 3]]
    # e.g. top left: 0*0 + 1*1 + 3*2 + 4*3
    np.testing.assert_array_equal(conv2d(image, kernel, implementation), [[19, 25], [37, 43]])


@BOTH
def test_the_edge_kernel_finds_the_edge(implementation):
    """Tests a bright square.

    The result is 0 inside, and on the edge the step height times the number of outer neighbours.
    """
    image = np.zeros((8, 8))
    image[2:6, 2:6] = 10
    edges = conv2d(image, [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], implementation)
    expected = np.zeros((6, 6))
    expected[1:5, 1:5] = [[50, 30, 30, 50], [30, 0, 0, 30], [30, 0, 0, 30], [50, 30, 30, 50]]
    expected[0, :] = expected[-1, :] = expected[:, 0] = expected[:, -1] = [
        -10,
        -20,
        -30,
        -30,
        -20,
        -10,
    ]
    np.testing.assert_array_equal(edges, expected)


@BOTH
def test_blur_is_the_mean_of_the_neighbourhood_of_a_real_digit(implementation):
    image = load_digits().images[0]
    blurred = conv2d(image, np.full((3, 3), 1 / 9), implementation)
    expected = [[image[i : i + 3, j : j + 3].mean() for j in range(6)] for i in range(6)]
    np.testing.assert_allclose(blurred, expected, rtol=1e-6)


@BOTH
def test_identity_kernel_changes_nothing(implementation):
    image = load_digits().images[1]
    same = conv2d(image, filters.identity(), implementation, padding='SAME')
    np.testing.assert_array_equal(same, image.astype(np.float32))


@BOTH
def test_stride_and_padding_by_hand(implementation):
    image, kernel = np.arange(16).reshape(4, 4), [[1, 0], [0, 1]]
    strided = conv2d(image, kernel, implementation, strides=2)
    np.testing.assert_array_equal(strided, [[0 + 5, 2 + 7], [8 + 13, 10 + 15]])
    padded = conv2d(image, kernel, implementation, strides=2, padding=1)
    np.testing.assert_array_equal(padded, [[0, 2, 0], [8, 5 + 10, 7], [0, 13, 15]])


@BOTH
def test_output_width_formula(implementation):
    """Checks W_out = floor((W_in - W_ker) / s) + 1, with W_in + 2 p for padding p."""
    for width in range(1, 9):
        for kernel in range(1, width + 1):
            for stride in (1, 2, 3):
                out = (width - kernel) // stride + 1
                assert cnn_jax.output_size(width, kernel, strides=stride, padding=0) == (out,)
    for width, kernel, stride, padding in ((5, 3, 2, 0), (6, 3, 2, 1), (7, 2, 3, 2), (4, 4, 1, 0)):
        y = conv2d(
            np.ones((width, width)),
            np.ones((kernel, kernel)),
            implementation,
            strides=stride,
            padding=padding,
        )
        assert y.shape == ((width + 2 * padding - kernel) // stride + 1,) * 2


@BOTH
def test_many_channels(implementation):
    """Checks that each output channel is a sum of one-channel convolutions over input channels."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(5, 6, 3)), rng.normal(size=(2, 3, 3, 4))
    y = cnn_jax.conv(
        x.astype('f'), kernel.astype('f'), padding='VALID', implementation=implementation
    )
    for o in range(4):
        expected = sum(conv2d(x[..., c], kernel[..., c, o], implementation) for c in range(3))
        np.testing.assert_allclose(y[..., o], expected, rtol=1e-5, atol=1e-5)


def test_pooling_by_hand():
    x = np.array([[1, 2, 5, 0], [3, 4, 1, 2], [0, 0, 7, 9], [4, 0, 8, 8]], np.float32)[..., None]
    np.testing.assert_array_equal(cnn_jax.max_pool(x, (2, 2))[..., 0], [[4, 5], [4, 9]])
    np.testing.assert_array_equal(cnn_jax.avg_pool(x, (2, 2))[..., 0], [[2.5, 2], [1, 8]])


@pytest.mark.parametrize('implementation', ['lax', 'scan', 'interior', 'subpixel'])
def test_the_transposed_example(implementation):
    x = np.array([[0, 1], [2, 3]], np.float32)[..., None]
    kernel = np.array([[0, 1], [2, 3]], np.float32)[..., None, None]
    y = cnn_jax.conv_transpose(x, kernel, padding=0, implementation=implementation)
    np.testing.assert_array_equal(y[..., 0], [[0, 0, 1], [0, 4, 6], [4, 12, 9]])

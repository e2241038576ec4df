"""Tests of the classic filters on flat images, ramps and random images."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cnn_jax.ops import filters
from cnn_jax.ops.convolution import conv


@pytest.mark.parametrize('name', filters.FILTERS)
def test_sum_of_a_filter_is_its_effect_on_a_flat_image(name):
    kernel = filters.FILTERS[name]()
    assert kernel.dtype == np.float32 and kernel.shape[0] == kernel.shape[1]
    flat = 0.0 if name in ('edge', 'sobel_x', 'sobel_y') else 1.0
    np.testing.assert_allclose(kernel.sum(), flat, atol=1e-6)


def test_every_filter_on_an_image_agrees_with_scipy():
    image = np.random.default_rng(0).random((9, 8, 3))
    for name, make in filters.FILTERS.items():
        kernel = filters.as_kernel(make(), 3)
        ours = conv(jnp.float32(image), kernel, groups=3, padding='SAME')
        for channel in range(3):
            expected = ndimage.correlate(
                image[..., channel], make().astype(np.float64), mode='constant'
            )
            np.testing.assert_allclose(ours[..., channel], expected, atol=1e-5, err_msg=name)


def test_sobel_measures_the_slope_of_a_ramp():
    rows, columns = np.mgrid[:6, :7].astype(np.float32)
    ramp = (3 * columns + 2 * rows)[..., None]
    for name, slope in (('sobel_x', 3), ('sobel_y', 2)):
        kernel = filters.as_kernel(filters.FILTERS[name](), 1)
        np.testing.assert_allclose(conv(ramp, kernel, padding='VALID'), 8 * slope)


def test_gaussian():
    kernel = filters.gaussian(7, 1.5)
    assert kernel[3, 3] == kernel.max()
    np.testing.assert_allclose(kernel[3, 4] / kernel[3, 3], np.exp(-1 / (2 * 1.5**2)), rtol=1e-6)
    np.testing.assert_allclose(filters.gaussian(5, 1e3), filters.blur(5), rtol=1e-4)


@pytest.mark.parametrize('name', ['blur', 'gaussian', 'sobel_x', 'sobel_y', 'identity'])
def test_separable_filters_are_products(name):
    column, row = filters.separate(filters.FILTERS[name]())
    assert column.shape[1] == row.shape[0] == 1
    np.testing.assert_allclose(column @ row, filters.FILTERS[name](), atol=1e-6)


@pytest.mark.parametrize('name', ['edge', 'sharpen', 'emboss'])
def test_other_filters_are_not(name):
    with pytest.raises(ValueError, match='rank [23]: it cannot be separated'):
        filters.separate(filters.FILTERS[name]())


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: filters.blur(4), 'size must be odd'),
        (lambda: filters.gaussian(0), 'size must be odd'),
        (lambda: filters.gaussian(3, 0.0), 'sigma must be > 0'),
        (lambda: filters.edge(5), 'neighbours must be 4 or 8, got 5'),
        (lambda: filters.as_kernel(np.float32(1), 1), 'axis per spatial axis'),
        (lambda: filters.as_kernel(filters.blur(), 0), 'channels must be a positive'),
        (lambda: filters.separate(np.zeros((3, 3))), 'rank 0'),
        (lambda: filters.separate(np.ones(3)), 'two axes'),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_dimensional_filters():
    kernel = filters.as_kernel(np.float32([1, 1, 1]) / 3, 2)
    assert kernel.shape == (3, 1, 2)
    signal = np.random.default_rng(0).random((10, 2)).astype(np.float32)
    np.testing.assert_allclose(
        conv(signal, kernel, groups=2, padding='VALID')[0], signal[:3].mean(0), rtol=1e-6
    )

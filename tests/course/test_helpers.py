"""What exercises observe: multiplications, and a simulated device's time."""

import jax
import numpy as np
import pytest

from cnn_jax.course.counting import with_multiplications
from cnn_jax.course.simulated import COMPILATION, DISPATCH, Device

A, B = np.float32([[1, 2], [3, 4]]), np.float32([5, 6])


@pytest.mark.parametrize(
    ('function', 'wanted', 'count'),
    [
        (lambda a, b: a @ b, A @ B, 4),
        (lambda a, b: a * b, A * B, 4),
        (lambda a, b: np.array([[1, -1]]) @ a / 2 - 3 * b, [[-16, -19]], 0),
        (lambda a, b: 1 - (-b).sum() + sum(a[0]), 15, 0),
        (lambda a, b: [b[0] / b[1], np.float32(2) * b[0]], [5 / 6, 10], 1),
        (lambda a, b: np.einsum('ij,j->i', a, b), A @ B, 4),
        (lambda a, b: np.zeros(3), np.zeros(3), 0),
    ],
)
def test_products_of_data_are_counted_and_constants_are_free(function, wanted, count):
    result, counted = with_multiplications(function, (A, B))
    np.testing.assert_allclose(result, wanted)
    assert counted == count


def test_a_device_goes_on_while_its_caller_does_not_wait():
    device = Device((1.0, 0.5))
    first = device.step(0.0)
    assert device.clock() == COMPILATION + DISPATCH
    second = device.step(0.0)
    jax.block_until_ready(second)
    assert device.clock() == COMPILATION + DISPATCH + 1.5
    jax.block_until_ready(first)  # is ready already
    assert device.clock() == COMPILATION + DISPATCH + 1.5

"""The native kernel on images whose rows and columns are divided among devices."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import cnn_jax
from cnn_jax.bench.tpu.aot import collectives
from cnn_jax.ops.kernels.native import sharding
from tests.ops.test_onednn import native

# name -> shape of x, shape of the kernel, axes of the mesh that divide x, options of `conv`,
# collective-permutes of the forward map
CASES = {
    '3x3': ((4, 16, 6, 8), (3, 3, 8, 16), ('data', 'space'), {'padding': 1}, 2),
    '3x3, stride 2': (
        (4, 16, 6, 8), (3, 3, 8, 16), ('data', 'space'), {'padding': 1, 'strides': 2}, 1,
    ),
    '7x7, stride 2': (
        (4, 16, 9, 3), (7, 7, 3, 8), ('data', 'space'), {'padding': 3, 'strides': 2}, 2,
    ),
    'dilated': (
        (4, 16, 9, 8), (3, 3, 8, 8), ('data', 'space'), {'padding': 2, 'dilation': 2}, 2,
    ),
    'no padding: 18 rows to 16': ((4, 18, 6, 8), (3, 3, 8, 8), ('data', 'space'), {}, 2),
    'padded on one side': (
        (4, 16, 6, 8), (2, 2, 8, 8), ('data', 'space'), {'padding': ((1, 0), (0, 0))}, 1,
    ),
    'rows and columns': ((4, 8, 8, 8), (3, 3, 8, 8), (None, 'data', 'space'), {'padding': 1}, 4),
    'rows over all devices': (
        (2, 16, 6, 8), (3, 3, 8, 8), (None, ('data', 'space')), {'padding': 1}, 2,
    ),
    'groups, 1-D': ((4, 12, 8), (3, 2, 8), ('data', 'space'), {'padding': 1, 'groups': 4}, 2),
}  # fmt: skip


def placed(x, axes):
    """Returns x, divided among 8 devices; `axes` are those of 4 x 2 devices for each axis of x."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ('data', 'space'))
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))


@native
@pytest.mark.parametrize('case', CASES)
def test_values_gradients_and_halos(case):
    x_shape, w_shape, axes, options, permutes = CASES[case]
    chance = np.random.default_rng(0)
    x, w = (chance.normal(size=shape).astype('f') for shape in (x_shape, w_shape))

    def f(implementation, x, w):
        y = cnn_jax.conv(x, w, implementation=implementation, **options)
        return jnp.sum(jnp.sin(y)), y

    wanted = jax.value_and_grad(lambda *a: f('lax', *a), (0, 1), has_aux=True)(x, w)
    run = jax.jit(jax.value_and_grad(lambda *a: f('onednn', *a), (0, 1), has_aux=True))
    x = placed(x, axes)
    found = run(x, w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 2e-5), found, wanted)
    assert not [k for k in collectives(run.lower(x, w).compile().as_text()) if 'gather' in k]
    forward = jax.jit(lambda *a: f('onednn', *a)[1]).lower(x, w).compile().as_text()
    assert collectives(forward)['collective-permute'].count == permutes


@native
def test_what_cannot_be_split_evenly_is_gathered_with_a_warning(caplog):
    x, w = np.ones((4, 14, 5, 8), 'f'), np.ones((3, 3, 8, 8), 'f')
    sharding._warn.cache_clear()
    conv = jax.jit(lambda x: cnn_jax.conv(x, w, strides=2, padding=1, implementation='onednn'))
    with caplog.at_level(logging.WARNING):
        y = conv(placed(x, ('data', 'space')))
    wanted = lax.conv_general_dilated(
        x, w, (2, 2), [(1, 1), (1, 1)], dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    np.testing.assert_allclose(y, wanted, rtol=1e-6)
    assert 'axis 0 on each device: 14 positions and 7 outputs' in caplog.text


@native
def test_fewer_rows_than_devices():
    """XLA divides 2 rows over half of an axis of 4 devices."""
    x, w = np.ones((2, 8, 4, 8), 'f'), np.ones((3, 3, 8, 8), 'f')

    def run(implementation, x):
        for _ in range(3):  # 8, 4, 2 and 1 rows
            x = cnn_jax.conv(x, w, strides=2, padding=1, implementation=implementation)
        return x

    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ('data', 'space'))
    divided = jax.device_put(x, NamedSharding(mesh, PartitionSpec('data', 'space')))
    found = jax.jit(lambda x: run('onednn', x))(divided)
    np.testing.assert_allclose(found, run('lax', x), rtol=1e-6)

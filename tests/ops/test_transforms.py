"""Convolutions under everything that JAX can do with a function; pools: test_pool_transforms.py."""

import pytest

from tests.ops import transforms

# By what a kernel is made of: every transform meets a loop, slices, a native call, a derived map.
KERNELS = ('scan', 'im2col', 'shift', 'onednn')
MOST = ('jit', 'constants', 'disable jit', 'vmap both', 'second order', 'remat')
MESHES = ('shard map over x', 'gradient inside of shard map', 'explicit mesh over batch', 'pmap')

CONVOLUTIONS = [name for name in transforms.OPERATIONS if name.startswith('conv')]

# What is refused, and why; everything else is right.
REFUSED = {
    ('conv, groups', 'shard map over w'): 'half of the kernels are no two groups',
    ('conv, strides', 'explicit mesh over space'): 'three positions on two devices',
    **{
        (title, 'explicit mesh over features'): 'needs out_sharding, as in jax.lax'
        for title in CONVOLUTIONS
    },
}


def assert_right(title, name, what):
    found = transforms.check(transforms.OPERATIONS[title], name, what)
    if (title, what) in REFUSED:
        assert found.startswith('refused by JAX: ')  # as JAX refuses its own convolution
    else:
        assert found == 'right'


@pytest.mark.parametrize('what', transforms.TRANSFORMS)
@pytest.mark.parametrize('title', CONVOLUTIONS)
def test_the_default(title, what):
    assert_right(title, None, what)


@pytest.mark.parametrize('what', [*MOST, *MESHES])
@pytest.mark.parametrize('name', KERNELS)
def test_named_kernels(name, what):
    if name not in transforms.kernels(transforms.OPERATIONS['conv 2-D']):
        pytest.skip('no native kernel here')
    assert_right('conv 2-D', name, what)

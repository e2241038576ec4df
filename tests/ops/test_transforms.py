"""Tests of convolutions under JAX's transformations; test_pool_transforms.py tests the pools."""

import pytest

from tests.ops import transforms

# Kernels of different kinds: a loop, slices, a native call, and maps derived by JAX.
KERNELS = ('scan', 'im2col', 'shift', 'onednn')
MOST = (
    'jit', 'constants', 'disable jit', 'vmap both', 'gradient of vmap', 'second order', 'remat',
)  # fmt: skip
MESHES = ('shard map over x', 'gradient inside of shard map', 'explicit mesh over batch', 'pmap')

CONVOLUTIONS = [name for name in transforms.OPERATIONS if name.startswith('conv')]

# Combinations that JAX refuses, and why; all others must give correct results.
REFUSED = {
    ('conv, groups', 'shard map over w'): 'half of the kernels do not form two groups',
    ('conv, strides', 'explicit mesh over space'): '3 positions cannot be split over 2 devices',
    **{
        (title, 'explicit mesh over features'): 'needs out_sharding, as in jax.lax'
        for title in CONVOLUTIONS
    },
}


def assert_right(title, name, what):
    found = transforms.check(transforms.OPERATIONS[title], name, what)
    if (title, what) in REFUSED:
        assert found.startswith('refused by JAX: ')  # JAX refuses its own convolution too
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

"""Eight virtual devices for the whole suite, and fixtures that tests of several floors share."""

import os
import pathlib

import jax
import pytest

from tests import compilation

# Before any test module can make an array, which would settle the number of devices at one: so
# everything about several devices runs on any machine, whatever is collected first.
jax.config.update('jax_num_cpu_devices', 8)

compilation.set_up()


@pytest.fixture(autouse=True)
def optimized(request):
    if request.node.get_closest_marker('optimized') is None:
        yield
        return
    jax.config.update('jax_disable_most_optimizations', False)
    yield
    jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
    """A folder of TFDS-prepared sets: CNN_JAX_TEST_DATA, or shared/tfds beside the project."""
    named = os.environ.get('CNN_JAX_TEST_DATA')
    folder = pathlib.Path(named or pathlib.Path(__file__).parents[2] / 'shared' / 'tfds')
    if not folder.is_dir():
        pytest.skip(f'no prepared data sets at {folder}; CNN_JAX_TEST_DATA names their folder')
    return folder

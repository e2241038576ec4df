"""Sets up eight virtual devices for the whole suite, and defines shared fixtures."""

import gc
import os
import pathlib

import jax
import pytest

from tests import compilation
from tools import scripts

# This must run before any test module creates an array, because that would fix the number of
# devices at one. It lets multi-device tests run on any machine, in any order of collection.
jax.config.update('jax_num_cpu_devices', 8)

compilation.set_up()


def pytest_collection_finish():
    gc.freeze()  # modules and tests live to the end; collections need not go through them


@pytest.fixture(autouse=True)
def optimized(request):
    if request.node.get_closest_marker('optimized') is None:
        yield
        return
    jax.config.update('jax_disable_most_optimizations', False)
    yield
    jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture(scope='session', autouse=True)
def shared_programs(tmp_path_factory):
    """Lets the processes that tests start, from all workers, share what they compile.

    It is empty at first, so each program is compiled once by the code under test.
    """
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        folder = folder.parent
    os.environ.update(scripts.compilation_cache(folder / 'compiled'))


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
    """Folder of data prepared by TFDS: CNN_JAX_TEST_DATA, or shared/tfds beside the project."""
    named = os.environ.get('CNN_JAX_TEST_DATA')
    folder = pathlib.Path(named or pathlib.Path(__file__).parents[2] / 'shared' / 'tfds')
    if not folder.is_dir():
        pytest.skip(f'no prepared data sets at {folder}; set CNN_JAX_TEST_DATA to their folder')
    return folder

"""Fixtures of the data tests: a separate cache, and the real MNIST files if they are available."""

import pathlib

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Gives each test its own cache folder for decoded arrays."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))


@pytest.fixture
def raw_mnist(shared_data) -> pathlib.Path:
    """The folder of MNIST's four original files, next to the prepared data sets."""
    folder = shared_data.parent / 'raw' / 'mnist'
    if not folder.is_dir():
        pytest.skip(f'no original MNIST files at {folder}')
    return folder

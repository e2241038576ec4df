"""Small originals and prepared folders, made here, and the real ones where they are at hand."""

import pathlib

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Decoded arrays go to a folder of the test's own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))


@pytest.fixture
def raw_mnist(shared_data) -> pathlib.Path:
    """The folder of MNIST's four original files, beside the prepared sets."""
    folder = shared_data.parent / 'raw' / 'mnist'
    if not folder.is_dir():
        pytest.skip(f'no original MNIST files at {folder}')
    return folder

"""Caches decoded arrays in the user's cache folder, so that each data set is decoded only once.

Decoding 70,000 small PNG images takes seconds; reading them as one array takes a tenth of a second.
The name of a cache file contains a hash of its sources (the descriptions, and the names, sizes and
modification times of the shards), so a changed data set gets a new cache file. `np.load` verifies
the CRC of the contents.
"""

import hashlib
import json
import os
import pathlib
import tempfile
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from cnn_jax.data.prepared import Prepared
from cnn_jax.machine import cache_folder

_FORMAT = 1  # increase this when decoding changes


def columns(
    folder: Prepared, split: str, dtypes: Mapping[str, type], size: int = 0
) -> dict[str, np.ndarray]:
    """Returns `folder.columns(split, dtypes, size)`, from the cache if it holds an intact copy.

    Errors in reading or writing the cache are ignored, because they only cost time.
    """
    path = _file(folder, split, dtypes, size)
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in dtypes}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError):
        pass
    arrays = folder.columns(split, dtypes, size)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder_of_one:
            written = pathlib.Path(folder_of_one, 'columns.npz')
            np.savez(written, **arrays)
            os.replace(written, path)
    except OSError:
        pass
    return arrays


def _file(folder: Prepared, split: str, dtypes: Mapping[str, type], size: int) -> pathlib.Path:
    shards = [
        (shard.name, stat.st_size, stat.st_mtime_ns)
        for shard in folder.shards(split)
        for stat in [shard.stat()]
    ]
    columns = {name: np.dtype(dtype).str for name, dtype in dtypes.items()}
    texts = [(folder.path / file).read_text() for file in ('dataset_info.json', 'features.json')]
    made_of = json.dumps([_FORMAT, split, shards, columns, size, texts])
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:32]
    return cache_folder() / f'{folder.info["name"]}-{split}-{digest}.npz'

"""Provides an array-like object for images that do not fit in memory."""

import concurrent.futures
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnn_jax.data.prepared import Prepared
from cnn_jax.errors import UserError


class StoredImages:
    """Images on disk that can be indexed by rows like an array of shape (N, H, W, C).

    A pool of threads decodes the images (PIL releases the GIL), so requests for whole batches keep
    all cores busy.

    Args:
        fetch: function that maps a list of example numbers to a list of encoded examples.
        decode: function that maps an encoded example to an image; all images must have the same
            shape.
        rows: numbers of the examples in this array, int64 (N,).

    Attributes:
        shape, dtype, nbytes: as for an array in memory.
    """

    def __init__(
        self,
        fetch: Callable[[list[int]], Sequence[Any]],
        decode: Callable[[Any], np.ndarray],
        rows: np.ndarray,
    ):
        self._fetch, self._decode, self._rows = fetch, decode, rows
        self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
        first = decode(fetch([int(rows[0])])[0])
        self.shape, self.dtype = (len(rows), *first.shape), first.dtype
        self.nbytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows) -> np.ndarray:
        """Returns the images at an integer, a slice, or an array of integers or booleans."""
        chosen = np.asarray(self._rows[rows])
        stored = self._fetch(chosen.reshape(-1).tolist())
        images = np.empty((len(stored), *self.shape[1:]), self.dtype)
        for i, image in enumerate(self._pool.map(self._decode, stored)):
            images[i] = image
        return images.reshape(*chosen.shape, *self.shape[1:])

    def take(self, rows) -> 'StoredImages':
        """Returns the images at `rows` without reading them."""
        return StoredImages(self._fetch, self._decode, self._rows[rows])


def prepared_images(folder: Prepared, split: str, feature: str, size: int) -> StoredImages:
    """Returns the images of a split of a prepared folder, with height and width `size`.

    Raises:
        ValueError: the file format of the folder does not support random access.
    """
    from array_record.python import array_record_data_source

    if not folder.random_access:
        raise UserError(
            f'{folder.path} is too large for memory and was not prepared as array_record, the only '
            "format with random access; prepare it with file_format='array_record'"
        )
    source = array_record_data_source.ArrayRecordDataSource(list(map(str, folder.shards(split))))
    lock = threading.Lock()
    decode = folder.decoder([feature], size)

    def fetch(rows: list[int]) -> Sequence[bytes]:
        with lock:
            return source.__getitems__(rows)

    return StoredImages(
        fetch, lambda record: decode(record)[feature], np.arange(folder.sizes[split])
    )

"""Images too many for memory: an array by its looks, read and decoded as rows are asked for."""

import concurrent.futures
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnn_jax.data.prepared import Prepared
from cnn_jax.errors import UserError


class StoredImages:
    """Images on disk, indexed by rows like a uint8 array (N, H, W, C).

    They are decoded by a pool of threads (PIL lets go of Python's lock), so a loader that asks for
    whole batches keeps all cores busy.

    Args:
        fetch: function of a list of example numbers that gives what is stored for each.
        decode: function of what is stored that gives the image; all are of one shape.
        rows: the numbers of the examples that this array consists of, int64 (N,).

    Attributes:
        shape, dtype, nbytes: as an array in memory would have them.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        fetch: Callable[[list[int]], Sequence[Any]],
        decode: Callable[[Any], np.ndarray],
        rows: np.ndarray,
    ):
        self._fetch, self._decode, self._rows = fetch, decode, rows
        self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
        self.shape = (len(rows), *decode(fetch([int(rows[0])])[0]).shape)
        self.nbytes = int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows) -> np.ndarray:
        """The images at an integer, a slice, or an array of integers or booleans."""
        chosen = np.asarray(self._rows[rows])
        stored = self._fetch(chosen.reshape(-1).tolist())
        images = np.empty((len(stored), *self.shape[1:]), np.uint8)
        for i, image in enumerate(self._pool.map(self._decode, stored)):
            images[i] = image
        return images.reshape(*chosen.shape, *self.shape[1:])

    def take(self, rows) -> 'StoredImages':
        """The images at `rows`, still not read."""
        return StoredImages(self._fetch, self._decode, self._rows[rows])


def prepared_images(folder: Prepared, split: str, feature: str, size: int) -> StoredImages:
    """The images of a split of a prepared folder, made square.

    Raises:
        ValueError: the folder's format does not let single examples be read.
    """
    from array_record.python import array_record_data_source

    if not folder.random_access:
        raise UserError(
            f'{folder.path} is too large for memory and was not prepared as array_record, of which '
            "single examples can be read; prepare it with file_format='array_record'"
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

"""Batches of a split: for training by step number, for evaluation once through in order."""

import itertools
from collections.abc import Iterator

import numpy as np

from cnn_jax.data.dataset import Split
from cnn_jax.data.order import batch_rows, process_rows, steps_per_epoch
from cnn_jax.errors import UserError


class Loader:
    """Training batches of a split, addressed by the global step.

    There is no state but the arguments: `batch(step)` is the same whatever was asked before, so a
    checkpoint needs to hold the step alone. The global batch is cut first and then this process's
    rows are taken, so the sequence of batches does not depend on the number of processes.

    Args:
        split: the examples.
        batch_size: examples in the global batch; the rest of an epoch, less than a batch, is left
            out (another rest in each epoch, as the order changes).
        seed: of the order.
        process_index: this process, from 0.
        process_count: number of processes; it must divide `batch_size`.

    Raises:
        ValueError: an argument does not fit, naming it.
    """

    def __init__(self, split: Split, batch_size: int, *, seed=0, process_index=0, process_count=1):
        self.steps_per_epoch = steps_per_epoch(len(split), batch_size)
        self._split, self._batch_size, self._seed = split, batch_size, seed
        self._process = process_index, process_count
        self.rows(0)

    def rows(self, step: int) -> np.ndarray:
        """The rows of the split in this process's share of batch `step`: int64."""
        n = len(self._split)
        rows = batch_rows(step, seed=self._seed, n=n, batch_size=self._batch_size)
        return process_rows(rows, *self._process)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """{'inputs', 'labels'} of this process's share of batch `step`."""
        rows = self.rows(step)
        return {'inputs': self._split.inputs[rows], 'labels': self._split.labels[rows]}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields the batches from step 0 on, without end."""
        return map(self.batch, itertools.count())


def evaluation_batches(
    split: Split, batch_size: int, *, process_index=0, process_count=1
) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order, in batches of one size.

    Args:
        split: the examples.
        batch_size: examples in the global batch.
        process_index: this process, from 0.
        process_count: number of processes; it must divide `batch_size`.

    Yields:
        {'inputs', 'labels', 'weights'}: this process's share. `weights` (float32) is 1 for an
        example and 0 for the padding of the last batch, which repeats the last example: sums are
        to be weighted by it.

    Raises:
        ValueError: an argument does not fit, naming it.
    """
    if batch_size < 1:
        raise UserError(f'batch_size={batch_size}; it must be at least 1')
    n = len(split)
    for start in range(0, n, batch_size):
        rows = np.arange(start, start + batch_size)
        rows = process_rows(rows, process_index, process_count)
        weights = (rows < n).astype(np.float32)
        rows = np.minimum(rows, n - 1)
        yield {'inputs': split.inputs[rows], 'labels': split.labels[rows], 'weights': weights}

"""Makes batches of a split: by step number for training, in order for evaluation."""

import itertools
from collections.abc import Iterator

import numpy as np

from cnn_jax.data.dataset import Split
from cnn_jax.data.order import batch_rows, process_rows, steps_per_epoch
from cnn_jax.errors import UserError


class Loader:
    """Training batches of a split, addressed by the global step.

    A loader has no mutable state: `batch(step)` depends only on `step` and the arguments below, so
    a checkpoint only needs to store the step. Each process takes its share of the global batch, so
    the sequence of global batches does not depend on the number of processes.

    Args:
        split: the examples.
        batch_size: number of examples in the global batch. The incomplete batch at the end of an
            epoch is dropped; it contains other examples in every epoch, because the order changes.
        seed: seed of the order of the examples.
        process_index: index of this process, counted from 0.
        process_count: number of processes; it must divide `batch_size`.

    Raises:
        ValueError: an argument is invalid; the message names it.
    """

    def __init__(self, split: Split, batch_size: int, *, seed=0, process_index=0, process_count=1):
        self.steps_per_epoch = steps_per_epoch(len(split), batch_size)
        self._split, self._batch_size, self._seed = split, batch_size, seed
        self._process = process_index, process_count
        self.rows(0)

    def rows(self, step: int) -> np.ndarray:
        """Returns the rows (int64) of the split in this process's share of batch `step`."""
        n = len(self._split)
        rows = batch_rows(step, seed=self._seed, n=n, batch_size=self._batch_size)
        return process_rows(rows, *self._process)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Returns {'inputs', 'labels'}, this process's share of batch `step`."""
        rows = self.rows(step)
        return {'inputs': self._split.inputs[rows], 'labels': self._split.labels[rows]}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Returns an infinite iterator over the batches from step 0."""
        return map(self.batch, itertools.count())


def evaluation_batches(
    split: Split, batch_size: int, *, process_index=0, process_count=1
) -> Iterator[dict[str, np.ndarray]]:
    """Yields every example once, in order, in batches of equal size.

    Args:
        split: the examples.
        batch_size: number of examples in the global batch.
        process_index: index of this process, counted from 0.
        process_count: number of processes; it must divide `batch_size`.

    Yields:
        {'inputs', 'labels', 'weights'}, this process's share of a batch. `weights` (float32) is 1
        for an example and 0 for padding. The last batch is padded with copies of the last example,
        so weight all sums by `weights`.

    Raises:
        ValueError: an argument is invalid; the message names it.
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

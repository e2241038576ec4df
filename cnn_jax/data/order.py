"""Computes the order of examples as a pure function of the seed and the epoch.

The step number alone determines the position of a training run in its data: step s is in epoch
s // (n // batch_size), and the order in an epoch depends only on the seed, the epoch and the number
n of examples. It does not depend on the number of processes or devices, so a run can resume with
the same batches on another machine.
"""

import functools

import numpy as np

from cnn_jax.errors import UserError


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns the permutation of 0..n-1 in which epoch `epoch` visits its examples.

    The permutation sorts 64-bit words of Philox-4x64 (Salmon et al., "Parallel random numbers: as
    easy as 1, 2, 3", SC 2011) with key (seed, epoch). NumPy guarantees that the stream of a bit
    generator never changes (NEP 19), but gives no such guarantee for `Generator.permutation`.

    Returns:
        int64 (n,), read-only.

    Raises:
        ValueError: an argument is negative.
    """
    for name, value in {'seed': seed, 'epoch': epoch, 'n': n}.items():
        if value < 0:
            raise UserError(f'{name}={value}; it must not be negative')
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n)
    order = np.argsort(words, kind='stable')
    order.flags.writeable = False
    return order


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Returns the number of full batches in n examples; an incomplete last batch is dropped.

    Raises:
        ValueError: `batch_size` is below 1 or above n.
    """
    if batch_size < 1:
        raise UserError(f'batch_size={batch_size}; it must be at least 1')
    if batch_size > n:
        raise UserError(f'batch_size={batch_size} is larger than the number of examples, {n}')
    return n // batch_size


def batch_rows(step: int, *, seed: int, n: int, batch_size: int) -> np.ndarray:
    """Returns the rows (int64) of the global batch at `step`, counted from 0 over all epochs."""
    epoch, batch = divmod(step, steps_per_epoch(n, batch_size))
    return epoch_order(seed, epoch, n)[batch * batch_size : (batch + 1) * batch_size]


def process_rows(rows: np.ndarray, index: int, count: int) -> np.ndarray:
    """Returns the rows of process `index`: one of `count` equal contiguous parts of `rows`.

    Raises:
        ValueError: `count` does not divide the batch size, or `index` is not in 0..count-1.
    """
    if not 0 <= index < count:
        raise UserError(f'process index {index}; it must be in 0..{count - 1}')
    if len(rows) % count:
        raise UserError(f'batch size {len(rows)} must be a multiple of the {count} processes')
    share = len(rows) // count
    return rows[index * share : (index + 1) * share]

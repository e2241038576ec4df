"""Transfers training examples to the devices: the whole set once, or batches ahead of time."""

import concurrent.futures
import time
from typing import Any

import jax
import numpy as np

from cnn_jax.data import Loader, Split
from cnn_jax.training.parallel import Jit

# A training set up to this size is kept on every device during the whole training.
RESIDENT_BYTES = 1 << 30


# Number of steps whose row indices are sent to the devices together.
ROWS_STEPS = 256


class Prefetcher:
    """Prepares the arguments of the function from `step.several_steps` for given step numbers.

    The next batches are prepared in another thread while the caller works. Batches prepared for
    other steps are discarded, so the result of `get` depends only on its arguments.

    Args:
        split: the examples.
        batch_size: number of examples per step, over all devices.
        seed: seed of the order of the examples.
        steps_per_call: maximum number of steps per call.
        parallel: how the devices share a step.
        resident: whether to keep the set on the devices; None means only if it is small enough.

    Attributes:
        resident: whether the set is kept on the devices.
        waited: total time spent in `get`, in seconds.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int,
        steps_per_call: int,
        parallel: Jit,
        resident: bool | None = None,
    ):
        size = split.inputs.nbytes + split.labels.nbytes
        self.resident = size <= RESIDENT_BYTES if resident is None else resident
        self.waited = 0.0
        self._parallel, self._devices = parallel, parallel.devices
        self._steps_per_call = steps_per_call
        processes = {}
        if self.resident:
            columns = {'inputs': split.inputs[:], 'labels': split.labels}
            self._data = self._devices.put_examples(columns)
        else:
            processes = {
                'process_index': jax.process_index(),
                'process_count': jax.process_count(),
            }
        self._loader = Loader(split, batch_size, seed=seed, **processes)
        self._pool = concurrent.futures.ThreadPoolExecutor(1, 'prefetch')
        self._ready: dict[tuple[int, int], concurrent.futures.Future] = {}
        self._counts: dict[int, jax.Array] = {}

    def room(self, step: int) -> int:
        """Returns the maximum number of steps of a call that starts at `step`."""
        if not self.resident:
            return self._steps_per_call
        return min(self._steps_per_call, ROWS_STEPS - step % ROWS_STEPS)

    def get(self, step: int, count: int) -> tuple[Any, jax.Array | None, jax.Array]:
        """Returns (data, rows, count) for `count` steps from `step` on; at most `room(step)`."""
        begun = time.monotonic()
        if count not in self._counts:
            self._counts[count] = self._devices.put(np.int32(count))
        if self.resident:
            first = step - step % ROWS_STEPS
            now, following = (first, ROWS_STEPS), (first + ROWS_STEPS, ROWS_STEPS)
            make = self._rows
        else:
            now, following, make = (step, count), (step + count, count), self._batches
        ready = {
            key: self._ready.get(key) or self._pool.submit(make, *key) for key in (now, following)
        }
        self._ready = ready
        found = ready[now].result()
        self.waited += time.monotonic() - begun
        if self.resident:
            return self._data, found, self._counts[count]
        return found, None, self._counts[count]

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _place(self, array: np.ndarray, whole: bool) -> jax.Array:
        return self._parallel.place(array, whole=whole)

    def _rows(self, step: int, count: int) -> jax.Array:
        rows = np.stack([self._loader.rows(step + i) for i in range(count)])
        return self._place(rows.astype(np.int32), True)

    def _batches(self, step: int, count: int) -> dict[str, jax.Array]:
        # A shorter call repeats its last batch to fill the array; the copies are not used.
        steps = [step + min(i, count - 1) for i in range(self._steps_per_call)]
        batches = [self._loader.batch(s) for s in steps]
        return {
            name: self._place(np.stack([b[name] for b in batches]), False) for name in batches[0]
        }

"""Training examples on the devices, in time: the whole set once, or batch after batch."""

import concurrent.futures
import time
from typing import Any

import jax
import numpy as np

from cnn_jax.data import Loader, Split
from cnn_jax.training.parallel import Jit

# A set up to this size lies on every device for the whole training.
RESIDENT_BYTES = 1 << 30


# Steps whose rows are sent to the device together.
ROWS_STEPS = 256


class Prefetcher:
    """Prepares the arguments of `step.several_steps`, by the number of the step.

    The next batches are prepared in another thread while the caller works. What was prepared for
    another position is discarded, so `get` depends on its arguments alone.

    Args:
        split: the examples.
        batch_size: examples in a step, over all devices.
        seed: of the order.
        steps_per_call: most steps in a call.
        parallel: how the devices share a step.
        resident: whether the set lies on the devices; None: if it is small enough.

    Attributes:
        resident: as decided.
        waited: seconds that `get` took, in all.
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
            self._data = self._devices.put({'inputs': split.inputs[:], 'labels': split.labels})
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
        """The most steps that a call from `step` on may do."""
        if not self.resident:
            return self._steps_per_call
        return min(self._steps_per_call, ROWS_STEPS - step % ROWS_STEPS)

    def get(self, step: int, count: int) -> tuple[Any, jax.Array | None, jax.Array]:
        """(data, rows, count) for the `count` steps from `step` on, at most `room(step)`."""
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
        # A call that is not full repeats its last batch, which is then not looked at.
        steps = [step + min(i, count - 1) for i in range(self._steps_per_call)]
        batches = [self._loader.batch(s) for s in steps]
        return {
            name: self._place(np.stack([b[name] for b in batches]), False) for name in batches[0]
        }

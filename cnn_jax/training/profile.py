"""Profiles selected training steps for TensorBoard or xprof."""

import pathlib

import jax


class Profiler:
    """Traces the steps from first to last (counted from 1); traces nothing if `steps` is None."""

    def __init__(self, steps: tuple[int, int] | None, folder: pathlib.Path):
        self._steps, self._folder = steps, folder
        self._running = False

    def at(self, step: int, count: int) -> int:
        """Starts or stops the trace if that is due after `step` steps.

        Returns:
            How many of the next `count` steps to run in one call, so that no call crosses the
            start or the end of the trace.
        """
        if self._steps is None:
            return count
        first, last = self._steps[0] - 1, self._steps[1]
        if self._running and step >= last:
            self.close()
        if not self._running and first <= step < last:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        edges = [edge - step for edge in (first, last) if edge > step]
        return min([count, *edges])

    def close(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

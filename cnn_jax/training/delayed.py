"""Holds checkpoints back, so that those of several runs are written together and less often."""

import heapq
import math
import time
from typing import Any, NamedTuple

from cnn_jax.training.checkpoints import Checkpoints
from cnn_jax.training.devices import Devices

SECONDS = 30.0  # after which a checkpoint is due to be written


class _Checkpoint(NamedTuple):
    step: int
    state: Any
    score: float | None


class DelayedCheckpoints:
    """Checkpoints of one run that are not yet written; the final files are those of `Checkpoints`.

    Args:
        checkpoints: writes them.
        devices: where they are written from, so that the files are those of a run of its own.
        keep_last, keep_best: as in `Checkpoints`.
    """

    def __init__(
        self, checkpoints: Checkpoints, devices: Devices, *, keep_last: int, keep_best: int
    ):
        self._checkpoints, self._devices = checkpoints, devices
        self._keep_last, self._keep_best = keep_last, keep_best
        self._waiting: list[_Checkpoint] = []
        self._written = time.monotonic()

    def add(self, step: int, state: Any, *, score: float | None = None) -> None:
        """Takes a tree of NumPy arrays, and drops what `Checkpoints` would delete again."""
        self._waiting.append(_Checkpoint(step, state, score))
        scores = {c.step: c.score for c in self._waiting if c.score is not None}
        kept = {c.step for c in self._waiting[-self._keep_last :]}
        kept |= set(heapq.nlargest(self._keep_best, scores, key=lambda s: (_rank(scores[s]), s)))
        self._waiting = [c for c in self._waiting if c.step in kept]

    def write(self, *, now: bool = True) -> None:
        """Writes them, unless `now` is False and `SECONDS` have not passed since the last time.

        Raises:
            SaveError: see `Checkpoints.save`.
        """
        if now or time.monotonic() - self._written > SECONDS:
            for step, state, score in self._waiting:
                self._checkpoints.save(step, self._devices.put(state), score=score)
            self._waiting.clear()
            self._written = time.monotonic()


def _rank(score: float) -> float:
    return -math.inf if math.isnan(score) else score

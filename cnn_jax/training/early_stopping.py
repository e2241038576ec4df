"""Follows the score of a run over its evaluations, to stop it when the score no longer improves.

The logged scores are the whole history: a resumed run reads them, and stops where an uninterrupted
run does.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cnn_jax.training import processes


class Progress(NamedTuple):
    """The best evaluation so far.

    Attributes:
        best_score: its score (higher is better); minus infinity before the first evaluation.
        best_step: its step; of equal scores, the first.
        since: number of evaluations after it.
    """

    best_score: float = -math.inf
    best_step: int = 0
    since: int = 0

    def after(self, step: int, score: float | None) -> 'Progress':
        """Returns the progress after another evaluation; NaN and None are no improvement."""
        if score is not None and score > self.best_score:
            return Progress(score, step)
        return self._replace(since=self.since + 1)


def progress(rows: Iterable[Mapping[str, Any]], name: str, step: int) -> Progress:
    """Returns the progress over the scores `name` in rows of metrics up to a step.

    The rows of the first process count, and every process must call this function.
    """
    found = Progress()
    for row in rows:
        if name in row and row['step'] <= step:
            found = found.after(row['step'], row[name])
    score, best, since = processes.values_of_first(np.array(found, np.float64)).tolist()
    return Progress(score, int(best), int(since))

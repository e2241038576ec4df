"""SIGTERM and SIGINT as a question the loop can ask."""

import os
import signal

from jax.experimental import multihost_utils

from cnn_jax.training.processes import are_several


class Interrupt:
    """Defers the first SIGTERM or SIGINT within this context: `at` reports it. A second one kills.

    With several processes a signal to any one of them stops all at the same step: JAX's own
    preemption service catches SIGTERM there, and SIGINT is handed on as SIGTERM.
    """

    def __init__(self):
        self._name: str | None = None

    def __enter__(self) -> 'Interrupt':
        self._several = are_several()
        if self._several:
            hand_on = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
            self._before = {signal.SIGINT: signal.signal(signal.SIGINT, hand_on)}
        else:
            both = signal.SIGTERM, signal.SIGINT
            self._before = {number: signal.signal(number, self._note) for number in both}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def at(self, step: int) -> str | None:
        """The name of the signal to stop for; with several processes all ask at the same steps."""
        if self._several and multihost_utils.reached_preemption_sync_point(step):
            self._name = 'SIGTERM'
        return self._name

    def _note(self, number, _frame):
        self._name = signal.Signals(number).name
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)

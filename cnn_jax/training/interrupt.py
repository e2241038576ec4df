"""Defers SIGTERM and SIGINT, so that the training loop can poll for them."""

import os
import signal
import threading

from jax.experimental import multihost_utils

from cnn_jax.training.processes import are_several


class Interrupt:
    """Defers the first SIGTERM or SIGINT within this context; a second one kills the process.

    `at` reports the deferred signal. With several processes, a signal to any of them stops all of
    them at the same step. In this case JAX's preemption service catches SIGTERM, and SIGINT is
    forwarded as SIGTERM.
    """

    def __init__(self):
        self._name: str | None = None

    def __enter__(self) -> 'Interrupt':
        self._several = are_several()
        if self._several:
            hand_on = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
            self._before = {signal.SIGINT: signal.signal(signal.SIGINT, hand_on)}
        else:
            # Python delivers signals to the main thread, and lets only that thread handle them.
            is_main = threading.current_thread() is threading.main_thread()
            both = (signal.SIGTERM, signal.SIGINT) if is_main else ()
            self._before = {number: signal.signal(number, self._note) for number in both}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def at(self, step: int) -> str | None:
        """Returns the name of the deferred signal, or None.

        With several processes, all of them must call this at the same steps.
        """
        if self._several and multihost_utils.reached_preemption_sync_point(step):
            self._name = 'SIGTERM'
        return self._name

    def _note(self, number, _frame):
        self._name = signal.Signals(number).name
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)

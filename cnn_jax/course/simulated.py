"""A simulated accelerator with its clock, so that measurements have one right result."""

from collections.abc import Sequence
from dataclasses import dataclass

COMPILATION, DISPATCH = 2.0, 0.001  # seconds


class Device:
    """Runs calls of `step` one after the other, while the caller goes on.

    Args:
        seconds: how long each call takes on the device, in their order; the last repeats.
    """

    def __init__(self, seconds: Sequence[float]):
        self.seconds = seconds
        self.calls = 0
        self.now = self.free = 0.0  # the caller's time; when the device has done its work

    def step(self, x: float) -> 'Pending':
        """Starts a call and returns at once; the first one compiles before."""
        self.now += DISPATCH + (COMPILATION if self.calls == 0 else 0.0)
        duration = self.seconds[min(self.calls, len(self.seconds) - 1)]
        self.calls += 1
        self.free = max(self.free, self.now) + duration
        return Pending(self, self.free)

    def clock(self) -> float:
        return self.now


@dataclass
class Pending:
    """A result that may not be computed yet, like `jax.Array`."""

    device: Device
    ready: float

    def block_until_ready(self) -> 'Pending':
        self.device.now = max(self.device.now, self.ready)
        return self

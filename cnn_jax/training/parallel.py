"""Ways for several devices to share a step: each compiles the step and places its batches."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax

from cnn_jax.errors import UserError
from cnn_jax.training.devices import AXIS, Devices


@dataclasses.dataclass(frozen=True)
class Jit:
    """One program over the global batch, which XLA divides: batch norm sees the whole batch.

    Attributes:
        devices: the mesh.
        axis_name: the mapped axis inside the step; None: there is none.
    """

    devices: Devices
    axis_name: ClassVar[str | None] = None

    def check(self) -> None:
        """Raises UserError where this way cannot be used."""

    def compile(self, calls: Callable[..., Any], resident: bool) -> Callable[..., Any]:
        """Compiles what `step.several_steps` returned; the memory of the state is reused.

        Args:
            calls: the function; its step was made with this object's `axis_name`.
            resident: as for `several_steps`.

        Returns:
            (state, data, rows, count) -> (state, metrics), whose batches are placed by `place`.
        """
        del resident
        return jax.jit(calls, donate_argnums=0, out_shardings=self.devices.replicated)

    def place(self, array: Any, *, whole: bool = True) -> jax.Array:
        """Places K batches (K, N, ...) on the devices, each with its share of the N rows.

        `whole`: every process has all N rows; otherwise its own alone.
        """
        return self.devices.put_rows(array, axis=1, whole=whole)


@dataclasses.dataclass(frozen=True)
class Pmap(Jit):
    """The step once per device, on its own rows: batch norm sees those alone."""

    axis_name: ClassVar[str | None] = AXIS

    def check(self) -> None:
        if jax.process_count() > 1:
            raise UserError("parallel='pmap': is for one process; use jit with several")

    def compile(self, calls: Callable[..., Any], resident: bool) -> Callable[..., Any]:
        return jax.pmap(
            calls,
            axis_name=self.axis_name,
            in_axes=(None, None, 0, None) if resident else (None, 0, None, None),
            out_axes=None,
            donate_argnums=0,
            devices=list(self.devices.mesh.devices.flat),
        )

    def place(self, array: Any, *, whole: bool = True) -> jax.Array:
        """Places K batches as (devices, K, N / devices, ...)."""
        count, (steps, size, *shape) = self.devices.count, array.shape
        parts = array.reshape(steps, count, size // count, *shape)
        return self.devices.put_rows(parts.swapaxes(0, 1), whole=True)


WAYS = {'jit': Jit, 'pmap': Pmap}

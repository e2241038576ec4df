"""Distributes a training step over devices, by jit or by pmap."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax

from cnn_jax.errors import UserError
from cnn_jax.training.devices import Devices
from cnn_jax.training.mesh import DATA


@dataclasses.dataclass(frozen=True)
class Jit:
    """Runs one program on the global batch, which XLA partitions.

    Batch norm computes its statistics over the whole batch.

    Attributes:
        devices: the mesh.
        axis_name: the mapped axis inside the step, or None.
    """

    devices: Devices
    axis_name: ClassVar[str | None] = None

    def check(self) -> None:
        """Raises UserError if this method cannot be used."""

    def compile(self, calls: Callable[..., Any], resident: bool) -> Callable[..., Any]:
        """Compiles the function that `step.several_steps` returned and donates the state to it.

        Args:
            calls: the function; its step must have been made with the `axis_name` of this object.
            resident: see `several_steps`.

        Returns:
            (state, data, rows, count) -> (state, metrics); its batches must come from `place`.
        """
        del resident
        return self.devices.jit(calls)

    def place(self, array: Any, *, whole: bool = True) -> jax.Array:
        """Places K batches (K, N, ...) on the devices, sharded along the N rows.

        If `whole`, every process has all N rows; otherwise every process has only its own.
        """
        return self.devices.put_rows(array, axis=1, whole=whole)


@dataclasses.dataclass(frozen=True)
class Pmap(Jit):
    """Runs the step once per device on its shard; batch norm sees only the rows of that shard."""

    axis_name: ClassVar[str | None] = DATA

    def check(self) -> None:
        if jax.process_count() > 1:
            raise UserError("parallel='pmap': supports only one process; use jit with several")
        if self.devices.strips > 1:
            raise UserError("parallel='pmap': does not split images; use jit with a mesh of space")

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
        """Places K batches with the shape (devices, K, N / devices, ...)."""
        count, (steps, size, *shape) = self.devices.count, array.shape
        parts = array.reshape(steps, count, size // count, *shape)
        return self.devices.put_rows(parts.swapaxes(0, 1), whole=True)


WAYS = {'jit': Jit, 'pmap': Pmap}

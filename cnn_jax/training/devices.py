"""Places arrays on a mesh of all devices with the single axis `data`."""

import dataclasses
import resource
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax.errors import UserError

AXIS = 'data'


@dataclasses.dataclass(frozen=True)
class Devices:
    """A mesh, on which arrays are either replicated or sharded along one axis."""

    mesh: Mesh

    @classmethod
    def all(cls, devices: Sequence[jax.Device] | None = None) -> 'Devices':
        return cls(Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,)))

    @property
    def count(self) -> int:
        return self.mesh.size

    @property
    def platform(self) -> str:
        return self.mesh.devices.flat[0].platform

    def __str__(self) -> str:
        kind = self.mesh.devices.flat[0].device_kind
        processes = f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''
        return f'{self.count} {kind} device{"s" if self.count > 1 else ""}{processes}'

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def rows(self, axis: int = 0) -> NamedSharding:
        """Returns the sharding that splits axis `axis` over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, AXIS))

    def check_batch(self, batch_size: int, accumulate: int = 1) -> None:
        """Raises ValueError unless a batch (or each part of it) splits evenly over the devices."""
        unit = self.count * accumulate
        if batch_size % unit:
            parts = f' times accumulate={accumulate}' if accumulate > 1 else ''
            raise UserError(
                f'batch_size={batch_size}: must be a multiple of the {self.count} devices{parts}, '
                f'for example {max(1, round(batch_size / unit)) * unit}'
            )

    def put(self, tree: Any) -> Any:
        """Replicates host arrays, which must be equal in every process, on all devices."""
        return jax.tree.map(lambda a: _put(np.asarray(a), self.replicated), tree)

    def put_rows(self, tree: Any, axis: int = 0, *, whole: bool = True) -> Any:
        """Shards host arrays along `axis`.

        If `whole`, every process has all rows. Otherwise every process has only its own rows, in
        the order of the processes.
        """
        sharding = self.rows(axis)
        if whole:
            return jax.tree.map(lambda a: _put(np.asarray(a), sharding), tree)
        return jax.tree.map(
            lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a)), tree
        )


def peak_memory() -> int:
    """Returns the peak memory in bytes of any one device of this process.

    Where devices give no memory statistics, as on a CPU, it is the peak memory of the process.
    """
    statistics = [device.memory_stats() for device in jax.local_devices()]
    if all(statistics):
        return max(each['peak_bytes_in_use'] for each in statistics)
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

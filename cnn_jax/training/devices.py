"""Places arrays on a mesh of all devices, and compiles functions of them."""

import dataclasses
import functools
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax.errors import UserError
from cnn_jax.ops.dispatch import use_implementation
from cnn_jax.training import mesh as meshes
from cnn_jax.training.mesh import DATA, SPACE

# XLA's own convolution exchanges halos between strips of an image, whatever their sizes. Others
# gather whole images, at least for sizes that do not divide evenly. So does JAX's gradient of a
# transposed convolution in its kernel, but not that of `subpixel`.
_WITH_HALOS = {'forward': 'lax', 'input_grad': 'lax', 'filter_grad': ('subpixel', 'lax')}


@dataclasses.dataclass(frozen=True)
class Devices:
    """A mesh, on which arrays are either replicated or sharded.

    A batch is sharded along its examples, over the mesh's axis `data`. If the mesh has an axis
    `space`, images and masks are also sharded along their first spatial axis, into strips.
    """

    mesh: Mesh

    @classmethod
    def all(cls, devices: Sequence[jax.Device] | None = None, mesh: str = '') -> 'Devices':
        """Makes a mesh of `devices`, by default all.

        `mesh`: its shape, such as 'data:4,space:2'; see `mesh.shape`.

        Raises:
            UserError: `mesh` is invalid, or the strips of an image would span processes.
        """
        everything = np.array(jax.devices() if devices is None else devices)
        data, space = meshes.shape(mesh, everything.size)
        if space == 1:
            return cls(Mesh(everything, (DATA,)))
        if jax.process_count() > 1 and jax.local_device_count() % space:
            raise UserError(
                f'mesh={mesh!r}: space:{space} must divide the {jax.local_device_count()} devices '
                'of each process'
            )
        return cls(Mesh(everything.reshape(data, space), (DATA, SPACE)))

    @property
    def count(self) -> int:
        return self.mesh.size

    @property
    def parts(self) -> int:
        """The number of parts of a batch."""
        return self.mesh.shape[DATA]

    @property
    def strips(self) -> int:
        """The number of strips of an image."""
        return self.mesh.shape.get(SPACE, 1)

    @property
    def platform(self) -> str:
        return self.mesh.devices.flat[0].platform

    def __str__(self) -> str:
        kind = self.mesh.devices.flat[0].device_kind
        processes = f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''
        split = f' ({self.parts} x {self.strips} strips)' if self.strips > 1 else ''
        return f'{self.count} {kind} device{"s" if self.count > 1 else ""}{processes}{split}'

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def rows(self, axis: int = 0, ndim: int = 0) -> NamedSharding:
        """Returns the sharding that splits axis `axis`, the examples, over the devices.

        `ndim`: number of axes of the array. With two or more after `axis`, examples are images or
        masks, whose rows are split as well if the mesh has an axis for that.
        """
        return NamedSharding(
            self.mesh, PartitionSpec(*[None] * axis, DATA, *self._space(ndim - axis))
        )

    def _space(self, ndim: int) -> tuple[str, ...]:
        return (SPACE,) if self.strips > 1 and ndim > 2 else ()

    def check_batch(self, batch_size: int, accumulate: int = 1) -> None:
        """Raises ValueError unless a batch (or each part of it) splits evenly over the devices."""
        unit = self.parts * accumulate
        if batch_size % unit:
            parts = f' times accumulate={accumulate}' if accumulate > 1 else ''
            what = f'{self.parts} devices' if self.strips == 1 else f'{DATA}:{self.parts} of mesh'
            raise UserError(
                f'batch_size={batch_size}: must be a multiple of the {what}{parts}, '
                f'for example {max(1, round(batch_size / unit)) * unit}'
            )

    def check_strips(self, shape: Sequence[int]) -> None:
        """Raises UserError unless examples of a shape (rows, ..., channels) split into strips."""
        if self.strips == 1:
            return
        if len(shape) < 2:
            raise UserError(
                f'mesh: space:{self.strips} splits images or sounds, not examples of shape '
                f'{tuple(shape)}'
            )
        if shape[0] % self.strips:
            raise UserError(
                f'mesh: space:{self.strips} must divide the {shape[0]} rows of an example of shape '
                f'{tuple(shape)}'
            )

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles a function of arrays on the mesh for all devices together.

        The first argument is donated; the results are replicated. If images are split, the default
        kernels of convolutions are those that do not gather them.
        """
        if self.strips > 1:
            function = _with_halos(function)
        return jax.jit(function, donate_argnums=0, out_shardings=self.replicated)

    def keep_strips(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Constrains the images and masks of a traced batch to be split; otherwise returns it.

        Without it, an augmentation that gathers whole images leaves the whole step to be computed
        by each device of a group. Images whose rows do not divide evenly are left to XLA.
        """

        def keep(array: jax.Array) -> jax.Array:
            if self.strips == 1 or array.ndim < 3 or array.shape[1] % self.strips:
                return array
            return jax.lax.with_sharding_constraint(array, self.rows(ndim=array.ndim))

        return jax.tree.map(keep, batch)

    def put(self, tree: Any) -> Any:
        """Replicates host arrays, which must be equal in every process, on all devices."""
        return jax.tree.map(lambda a: _put(np.asarray(a), self.replicated), tree)

    def put_examples(self, tree: Any) -> Any:
        """Puts all of the host arrays (N, ...) on the devices; images are split into strips."""

        def put(array: np.ndarray) -> jax.Array:
            spec = PartitionSpec(None, *self._space(array.ndim))
            return _put(array, NamedSharding(self.mesh, spec))

        return jax.tree.map(lambda a: put(np.asarray(a)), tree)

    def put_rows(self, tree: Any, axis: int = 0, *, whole: bool = True) -> Any:
        """Shards host arrays along `axis`, their examples; see `rows`.

        If `whole`, every process has all examples. Otherwise every process has only its own, in
        the order of the processes.
        """
        place = _put if whole else _put_own
        arrays = jax.tree.map(np.asarray, tree)
        return jax.tree.map(lambda a: place(a, self.rows(axis, a.ndim)), arrays)


def _with_halos(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments):
        with use_implementation(_WITH_HALOS):
            return function(*arguments)

    return call


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


def _put_own(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_process_local_data(sharding, array)

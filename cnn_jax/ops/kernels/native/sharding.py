"""Partitions convolutions under `jit`: each device convolves its own part of a sharded batch.

If images are sharded as well, devices exchange the borders of their strips (`halo`). XLA cannot
partition a foreign function, and would otherwise gather the whole batch on every device.
"""

import functools
import logging
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from cnn_jax.ops.kernels.native.halo import Halo, halo
from cnn_jax.ops.lowering.internals import custom_partitioning, on_one_device, undisturbed
from cnn_jax.ops.spec import ROLES, ConvSpec

Compute = Callable[[str, jax.Array, jax.Array, ConvSpec], jax.Array]
Names = tuple[str, ...]

_log = logging.getLogger(__name__)


def by_batch_and_space(compute: Compute) -> Compute:
    """Partitions `compute(op, a, b, spec)` along the batch and space of its first operand."""

    if custom_partitioning is None:  # in this case no kernel is lowered at all
        return compute
    partitioned = custom_partitioning(compute, static_argnums=(0, 3))

    def partition(op, spec, mesh, operands, result):
        # The first operand is x or y. The sharding of a constant may not name the axes.
        batch, *space = _axes(getattr(operands[0].sharding, 'spec', PartitionSpec()), spec.ndim)
        parts = _parts(mesh, batch)
        if spec.batch % parts:
            batch, parts = (), 1
        halos = _halos(op, spec, space, mesh)
        local = spec.replace(batch=spec.batch // parts)
        for each in halos:
            local = each.of_one_device(local)
        out = ROLES[op][2]
        divided = {each.axis: each.names for each in halos}
        everywhere = batch + tuple(name for names in divided.values() for name in names)

        def extend(x):
            for each in halos:
                x = each.extend(x)
            return x

        def lower(a, b):
            with undisturbed():
                part = compute(op, extend(a) if ROLES[op][0] == 'x' else a, b, local)
                if out == 'w' and everywhere:
                    return lax.psum(part.astype(jnp.float32), everywhere).astype(part.dtype)
                if out == 'x' and halos:
                    shape = list(spec.x_shape)
                    shape[0] //= parts
                    for each in halos:
                        shape[1 + each.axis] //= each.parts
                    strip = jax.ShapeDtypeStruct(shape, part.dtype)
                    (part,) = jax.linear_transpose(extend, strip)(part)
                return part

        examples = PartitionSpec(batch or None, *(divided.get(i) for i in range(spec.ndim)))
        placed = {
            role: NamedSharding(mesh, PartitionSpec() if role == 'w' else examples)
            for role in ROLES[op]
        }
        return mesh, lower, placed[out], tuple(placed[role] for role in ROLES[op][:2])

    def rule(op, spec, mesh, operands, result):
        # As in einsum, the axes of each array. The batch 'n' and the positions 's' are common to
        # x and y.
        space = [f's{i}' for i in range(spec.ndim)]
        axes = {
            'w': ['w_batch', *(f'w{i}' for i in range(spec.ndim + 1))],
            'x': ['n', *space, 'x_features'],
            'y': ['n', *space, 'y_features'],
        }
        texts = [' '.join(axes[role]) for role in ROLES[op]]
        text = f'{texts[0]}, {texts[1]} -> {texts[2]}'
        sizes = zip(spec.input_size, spec.output_size, strict=True)
        whole = tuple(f's{i}' for i, both in enumerate(sizes) if _may_split_an_axis(mesh, both))
        return (text, {'need_replication_factors': whole}) if whole else text

    partitioned.def_partition(partition, sharding_rule=rule)
    return lambda *operands: (compute if on_one_device() else partitioned)(*operands)


def _may_split_an_axis(mesh: jax.sharding.Mesh, sizes: tuple[int, ...]) -> bool:
    """Returns whether XLA may divide positions over a part of an axis of the mesh.

    An example are 2 positions on 4 devices. JAX does not support it in custom partitioning.
    """
    return any(1 < math.gcd(n, axis) < axis for n in sizes for axis in mesh.shape.values())


def _axes(spec: PartitionSpec, ndim: int) -> list[Names]:
    """Returns the axes of the mesh that divide the batch and each spatial axis."""
    entries = (*spec, *[None] * (1 + ndim))[: 1 + ndim]
    return [() if e is None else e if isinstance(e, tuple) else (e,) for e in entries]


def _parts(mesh: jax.sharding.Mesh, names: Names) -> int:
    return math.prod(mesh.shape[name] for name in names)


def _halos(op: str, spec: ConvSpec, space: list[Names], mesh: jax.sharding.Mesh) -> list[Halo]:
    halos = []
    for axis, names in enumerate(space):
        if (parts := _parts(mesh, names)) == 1:
            continue
        if found := halo(spec, axis, names, parts):
            halos.append(found)
        else:
            size, outputs = spec.input_size[axis], spec.output_size[axis]
            _warn(
                f'onednn gathers spatial axis {axis} on each device: {size} positions and '
                f'{outputs} outputs cannot be split evenly in {parts} (the kernel lax can)'
            )
    return halos


@functools.cache
def _warn(text: str) -> None:
    """Warns once of each layer."""
    _log.warning(text)

"""Partitions a call over the batch where `jit` has a mesh: Mosaic kernels cannot be partitioned."""

import math
from collections.abc import Callable

import jax
from jax import lax
from jax.sharding import PartitionSpec

from cnn_jax.ops.lowering.internals import mesh_of_program
from cnn_jax.ops.spec import ROLES, ConvSpec

Compute = Callable[[str, jax.Array, jax.Array, ConvSpec], jax.Array]


def by_batch(compute: Compute) -> Compute:
    """Maps `compute(op, a, b, spec)` over the mesh of the program that is being lowered, if any."""

    def partitioned(op, a, b, spec):
        mesh = mesh_of_program()
        if mesh is None:
            return compute(op, a, b, spec)
        names = _axes_of_batch(mesh.shape, spec.batch)
        parts = math.prod(mesh.shape[name] for name in names)
        local = spec.replace(batch=spec.batch // parts)
        *roles, out = tuple(ROLES[op])
        specs = {role: PartitionSpec(*(() if role == 'w' else [names])) for role in ROLES[op]}

        def part(a, b):
            result = compute(op, a, b, local)
            return lax.psum(result, names) if out == 'w' and names else result

        mapped = jax.shard_map(
            part,
            mesh=mesh,
            in_specs=tuple(specs[role] for role in roles),
            out_specs=specs[out],
            check_vma=False,  # a result is the same on devices that see the same operands
        )
        return mapped(a, b)

    return partitioned


def _axes_of_batch(sizes: dict[str, int], batch: int) -> tuple[str, ...]:
    """Returns the axes of the mesh, in their order, that together divide the batch."""
    names: tuple[str, ...] = ()
    for name, size in sizes.items():
        if batch % size == 0:
            names, batch = (*names, name), batch // size
    return names

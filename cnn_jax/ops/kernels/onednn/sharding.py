"""Partitions convolutions under `jit`: each device convolves its own part of a sharded batch.

XLA cannot partition a foreign function, and would otherwise gather the whole batch on every device.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from cnn_jax.ops.lowering.internals import custom_partitioning, on_one_device, undisturbed
from cnn_jax.ops.spec import ROLES, ConvSpec

Compute = Callable[[str, jax.Array, jax.Array, ConvSpec], jax.Array]


def by_batch(compute: Compute) -> Compute:
    """Partitions `compute(op, a, b, spec)` along the batch, following its first operand."""

    if custom_partitioning is None:  # in this case no kernel is lowered at all
        return compute
    partitioned = custom_partitioning(compute, static_argnums=(0, 3))

    def partition(op, spec, mesh, operands, result):
        batch = operands[0].sharding.spec[:1]  # the first operand is x or y
        names = batch[0] if batch and isinstance(batch[0], tuple) else batch
        parts = math.prod(mesh.shape[name] for name in names if name is not None)
        if parts == 1 or spec.batch % parts:
            batch, names, parts = (), (), 1
        local = spec.replace(batch=spec.batch // parts)
        out = ROLES[op][2]

        def lower(a, b):
            with undisturbed():
                part = compute(op, a, b, local)
                if out != 'w' or parts == 1:
                    return part
                return lax.psum(part.astype(jnp.float32), names).astype(part.dtype)

        placed = {
            role: NamedSharding(mesh, PartitionSpec(*(() if role == 'w' else batch)))
            for role in ROLES[op]
        }
        return mesh, lower, placed[out], tuple(placed[role] for role in ROLES[op][:2])

    def rule(op, spec, mesh, operands, result):
        # As in einsum, the axes of each array. Only the batch, 'n', is common to two arrays.
        names = {'x': 'n', 'w': 'w_batch', 'y': 'n'}
        texts = [
            ' '.join([names[role], *(f'{role}{i}' for i in range(spec.ndim + 1))])
            for role in ROLES[op]
        ]
        return f'{texts[0]}, {texts[1]} -> {texts[2]}'

    partitioned.def_partition(partition, sharding_rule=rule)
    return lambda *operands: (compute if on_one_device() else partitioned)(*operands)

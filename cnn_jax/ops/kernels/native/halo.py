"""Divides an axis of a convolution among devices that exchange the borders of their strips.

Device p holds the p-th of equal strips of the input and of the output. The windows of its outputs
also see some positions before and after its own strip, the halo, which the neighbours send.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.spec import ConvSpec


class Halo(NamedTuple):
    """The strip of each device along one spatial axis, and what it needs of its neighbours.

    Attributes:
        axis: the spatial axis, from 0.
        names: the axes of the mesh that divide it.
        parts: number of strips.
        before, after: number of positions from the neighbour before and after.
        start: position in the extended strip of device 0 that its windows see first.
        drift: how much later that position is on each next device.
        span: number of positions that the windows of one device see.
    """

    axis: int
    names: tuple[str, ...]
    parts: int
    before: int
    after: int
    start: int
    drift: int
    span: int

    def extend(self, x: jax.Array) -> jax.Array:
        """Maps a strip of the input to the positions that its windows see; differentiable.

        Beyond the ends of the whole axis these are zero, which is the padding of a convolution.
        """
        axis = self.axis + 1
        size = x.shape[axis]
        up = [(p, p + 1) for p in range(self.parts - 1)]
        down = [(p + 1, p) for p in range(self.parts - 1)]
        pieces = [x]
        if self.before:
            last = lax.slice_in_dim(x, size - self.before, size, axis=axis)
            pieces.insert(0, lax.ppermute(last, self.names, up))
        if self.after:
            first = lax.slice_in_dim(x, 0, self.after, axis=axis)
            pieces.append(lax.ppermute(first, self.names, down))
        extended = jnp.concatenate(pieces, axis)
        if not self.drift:
            return lax.slice_in_dim(extended, self.start, self.start + self.span, axis=axis)
        start = self.start + self.drift * lax.axis_index(self.names)
        return lax.dynamic_slice_in_dim(extended, start, self.span, axis=axis)

    def of_one_device(self, spec: ConvSpec) -> ConvSpec:
        """Returns the convolution of an extended strip."""
        size, padding = list(spec.input_size), list(spec.padding)
        size[self.axis], padding[self.axis] = self.span, (0, 0)
        return spec.replace(input_size=tuple(size), padding=tuple(padding))


def halo(spec: ConvSpec, axis: int, names: tuple[str, ...], parts: int) -> Halo | None:
    """Returns how to divide a spatial axis, or None if that is not possible.

    The strips must be of equal size, and a halo must come from the next device alone.
    """
    size, outputs, stride = spec.input_size[axis], spec.output_size[axis], spec.strides[axis]
    if size % parts or outputs % parts:
        return None
    rows, drift = size // parts, (outputs * stride - size) // parts
    span = (outputs // parts - 1) * stride + spec.dilated_window[axis]
    first = -spec.padding[axis][0]  # relative to the strip of device 0
    last = first + (parts - 1) * drift  # relative to the strip of the last device
    before, after = max(0, -min(first, last)), max(0, max(first, last) + span - rows)
    if max(before, after) > rows:
        return None
    return Halo(axis, names, parts, before, after, before + first, drift, span)

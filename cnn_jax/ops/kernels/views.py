"""Shared by several kernels: the padded input, its shifted views, transposed kernels, chunks."""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.spec import ConvSpec, accumulator

Array = jax.Array


def dilate_and_pad(x: Array, spec: ConvSpec) -> Array:
    """x with its holes (input dilation) and its zero padding written out."""
    config = [
        (lo, hi, e - 1) for (lo, hi), e in zip(spec.padding, spec.input_dilation, strict=True)
    ]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def tap_slices(spec: ConvSpec) -> list[tuple[slice, ...]]:
    """For each tap of the window, in row-major order, the spatial slices of the padded input that
    it multiplies, each of `spec.output_size`."""
    return [
        tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(tap, spec.dilation, spec.output_size, spec.strides, strict=True)
        )
        for tap in itertools.product(*map(range, spec.window))
    ]


def swap_features(kernel: Array, groups: int) -> Array:
    """(*window, a // groups, b) -> (*window, b // groups, a), each group transposed in itself."""
    if groups == 1:  # which XLA can see through
        return jnp.swapaxes(kernel, -1, -2)
    *window, a, b = kernel.shape
    kernel = kernel.reshape(*window, a, groups, b // groups)
    return jnp.swapaxes(kernel, -3, -1).reshape(*window, b // groups, groups * a)


def transpose(linear: Callable[[Array], Array], shape: tuple[int, ...], ct: Array) -> Array:
    """The transpose, applied to ct, of a linear function of an array of `shape` and ct's dtype."""
    # jax.linear_transpose would do, but fails on scans before jax 0.8.
    return jax.vjp(linear, jnp.zeros(shape, ct.dtype))[1](ct)[0]


def as_words(x: Array) -> Array:
    """16-bit floats as uint16: XLA:CPU copies those as they are, but bf16 by way of float32."""
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize != 2:
        return x
    # XLA:CPU computes on constants while it compiles, and takes the elements of a transposed one in
    # the wrong order where it becomes a float again: not beyond a barrier.
    return lax.optimization_barrier(lax.bitcast_convert_type(x, jnp.uint16))


def from_words(x: Array, dtype: str) -> Array:
    """The inverse of `as_words`."""
    return x if x.dtype == jnp.dtype(dtype) else lax.bitcast_convert_type(x, jnp.dtype(dtype))


def product(a: Array, b: Array, spec: ConvSpec) -> Array:
    """The matrix product a b, in the dtype of the accumulator."""
    dtype = accumulator(spec.dtype)
    if jax.default_backend() == 'cpu':
        # XLA:CPU multiplies 16-bit floats into float32 for some shapes on processors with AMX, and
        # otherwise fails at run time ("Unsupported element type").
        a, b = a.astype(dtype), b.astype(dtype)
    return jnp.matmul(a, b, precision=spec.precision, preferred_element_type=dtype)


def images_per_chunk(spec: ConvSpec, bytes_per_image: int, budget: int) -> int:
    """The largest divisor of the batch whose images stay within `budget` bytes (at least 1)."""
    most = max(1, min(spec.batch, budget // max(1, bytes_per_image)))
    return next(n for n in range(most, 0, -1) if spec.batch % n == 0)


def positions(spec: ConvSpec) -> int:
    """Output positions of one image."""
    return math.prod(spec.output_size)

"""Functions that several kernels share: padded inputs, shifted views, transposes and chunks."""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.platforms import target_platform
from cnn_jax.ops.spec import ConvSpec, accumulator

Array = jax.Array


def dilate_and_pad(x: Array, spec: ConvSpec) -> Array:
    """Returns x with its holes (input dilation) and its zero padding written out."""
    config = [
        (lo, hi, e - 1) for (lo, hi), e in zip(spec.padding, spec.input_dilation, strict=True)
    ]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def tap_slices(spec: ConvSpec) -> list[tuple[slice, ...]]:
    """Returns the spatial slices of the padded input that each tap of the window multiplies.

    The taps are in row-major order. Each slice has `spec.output_size`.
    """
    return [
        tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(tap, spec.dilation, spec.output_size, spec.strides, strict=True)
        )
        for tap in itertools.product(*map(range, spec.window))
    ]


def swap_features(kernel: Array, groups: int) -> Array:
    """Transposes each group: (*window, a // groups, b) -> (*window, b // groups, a)."""
    if groups == 1:  # XLA can fuse this transpose
        return jnp.swapaxes(kernel, -1, -2)
    *window, a, b = kernel.shape
    kernel = kernel.reshape(*window, a, groups, b // groups)
    return jnp.swapaxes(kernel, -3, -1).reshape(*window, b // groups, groups * a)


def input_grad_spec(spec: ConvSpec) -> ConvSpec:
    """Returns the convolution of dy that computes the input gradient of `spec`.

    It reads dy with the strides as holes; its kernel is flipped, with swapped features. Its padding
    is negative where `spec` pads by more than its window reaches. Source: Dumoulin & Visin 2016,
    arXiv:1603.07285, relationship 14, here for any dilation.
    """
    # dx[h] is a sum over outputs p with s p = h + lo - d t, which reach back k - 1 positions.
    padding = tuple(
        (k - 1 - lo, (n - 1) * e - (m - 1) * s + lo)
        for n, m, k, s, e, (lo, _) in zip(
            spec.input_size,
            spec.output_size,
            spec.dilated_window,
            spec.strides,
            spec.input_dilation,
            spec.padding,
            strict=True,
        )
    )
    return spec.replace(
        input_size=spec.output_size,
        in_features=spec.out_features,
        out_features=spec.in_features,
        strides=spec.input_dilation,
        padding=padding,
        input_dilation=spec.strides,
    )


def transpose(linear: Callable[[Array], Array], shape: tuple[int, ...], ct: Array) -> Array:
    """Applies to ct the transpose of `linear`, whose input has `shape` and ct's dtype."""
    # jax.linear_transpose would be simpler, but it fails on scans before jax 0.8.
    return jax.vjp(linear, jnp.zeros(shape, ct.dtype))[1](ct)[0]


def as_words(x: Array) -> Array:
    """Views 16-bit floats as uint16, because XLA:CPU copies bfloat16 by way of float32."""
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.dtype.itemsize != 2:
        return x
    # XLA:CPU folds constants at compile time, and reads the elements of a transposed constant in
    # the wrong order where it is cast back to a float. The barrier prevents the folding.
    return lax.optimization_barrier(lax.bitcast_convert_type(x, jnp.uint16))


def from_words(x: Array, dtype: str) -> Array:
    """Inverts `as_words`."""
    return x if x.dtype == jnp.dtype(dtype) else lax.bitcast_convert_type(x, jnp.dtype(dtype))


def product(a: Array, b: Array, spec: ConvSpec) -> Array:
    """Returns the matrix product a b, in the dtype of the accumulator."""
    dtype = factor_dtype(spec)
    return jnp.matmul(
        a.astype(dtype),
        b.astype(dtype),
        precision=spec.precision,
        preferred_element_type=accumulator(spec.dtype),
    )


def factor_dtype(spec: ConvSpec) -> jnp.dtype:
    """Returns the dtype in which `product` multiplies."""
    # XLA:CPU can multiply 16-bit floats into float32 only for some shapes, on processors with
    # AMX. Otherwise it fails at run time ("Unsupported element type").
    on_cpu = target_platform() == 'cpu'
    return accumulator(spec.dtype) if on_cpu else jnp.dtype(spec.dtype)


def images_per_chunk(spec: ConvSpec, bytes_per_image: int, budget: int) -> int:
    """Returns the largest divisor of the batch that fits in `budget` bytes, but at least 1."""
    most = max(1, min(spec.batch, budget // max(1, bytes_per_image)))
    return next(n for n in range(most, 0, -1) if spec.batch % n == 0)


def positions(spec: ConvSpec) -> int:
    """Returns the number of output positions of one image."""
    return math.prod(spec.output_size)

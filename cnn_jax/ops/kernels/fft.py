"""Computes a convolution as a product of Fourier transforms, which pays off for large windows.

Mathieu, Henaff & LeCun 2014, "Fast training of convolutional networks through FFTs"
(arXiv:1312.5851), section 2. Through rounding, every output depends on every input of its image.
Errors are therefore relative to the largest value of an image, and one NaN or infinity makes the
whole image NaN. 16-bit floats are transformed in float32. A strided output is a subsample of the
full stride-1 result.
"""

import jax
import jax.numpy as jnp

from cnn_jax.ops.kernels.views import dilate_and_pad
from cnn_jax.ops.spec import ConvSpec, accumulator


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if not jnp.issubdtype(spec.dtype, jnp.floating):
        return f'a Fourier transform needs floating point, got {spec.dtype}'
    if spec.batch == 0:
        return 'needs at least one image, got batch 0'
    return None


def forward(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    dtype = accumulator(spec.dtype)
    size, n = tuple(map(_fast_size, spec.padded_size)), spec.ndim
    x = dilate_and_pad(x, spec).astype(dtype)
    holes = [(0, 0, d - 1) for d in spec.dilation]
    w = jax.lax.pad(w.astype(dtype), jnp.zeros((), dtype), [*holes, (0, 0, 0), (0, 0, 0)])
    # rfftn transforms at most 3 axes. The features move in front of them, as batch axes.
    x = jnp.fft.rfftn(jnp.moveaxis(x, -1, 1), size, range(2, 2 + n))
    w = jnp.fft.rfftn(jnp.moveaxis(w, (-2, -1), (0, 1)), size, range(2, 2 + n))
    x = x.reshape(spec.batch, spec.groups, -1, *x.shape[2:])
    w = w.reshape(w.shape[0], spec.groups, -1, *w.shape[2:])
    y = jnp.einsum('bgc...,cgo...->bgo...', x, jnp.conj(w), precision='highest')
    y = y.reshape(spec.batch, spec.out_features, *y.shape[3:])
    y = jnp.moveaxis(jnp.fft.irfftn(y, size, range(2, 2 + n)), 1, -1)
    kept = tuple(
        slice(0, (o - 1) * s + 1, s) for o, s in zip(spec.output_size, spec.strides, strict=True)
    )
    return y[(slice(None), *kept)].astype(spec.dtype)


def _fast_size(n: int) -> int:
    """Returns the smallest even size that is at least n and has no prime factors above 5."""

    def is_smooth(m: int) -> bool:
        for p in (2, 3, 5):
            while m % p == 0:
                m //= p
        return m == 1

    return next(m for m in range(n + n % 2, 2 * n + 3, 2) if is_smooth(m))

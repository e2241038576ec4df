"""Tolerances for comparing the result of any operation with a float64 oracle.

The relative error of a sum of `length` products, accumulated in a dtype of unit roundoff u, grows
like u sqrt(length) if rounding errors have random signs (Higham & Mary 2019, "A new approach to
probabilistic rounding error analysis", theorem 2.4, with a constant of a few units). The result is
then rounded once to its own dtype. Errors are measured against the largest magnitude of the
expected array, because single elements may cancel.
"""

import jax.numpy as jnp
import numpy as np

CONSTANT = 4

# Winograd's transforms and the Fourier transforms round more often than the direct sum.
FACTOR = {'winograd': 4.0, 'native_winograd': 4.0, 'fft': 4.0}


def tolerance(dtype, length, factor=1.0):
    """Returns the allowed error, relative to the largest expected magnitude.

    Args:
        dtype: dtype of the result; 16-bit floats are accumulated in float32.
        length: number of terms of the longest sum.
        factor: above 1 for a kernel that is known to be less accurate than the direct sum.
    """
    dtype = jnp.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        return 0.0
    own = float(jnp.finfo(dtype).eps) / 2
    sums = own if dtype.itemsize > 2 else float(jnp.finfo(jnp.float32).eps) / 2
    rounding = own * 1.01 if dtype.itemsize <= 2 else own
    return rounding + factor * CONSTANT * sums * np.sqrt(max(length, 1))


def assert_close(actual, expected, length, factor=1.0, message='', scale=None):
    """Asserts that `actual` has the shape of `expected` and lies within `tolerance` of it.

    Errors are relative to `scale`, by default the largest expected magnitude.
    """
    dtype = actual.dtype
    assert actual.shape == expected.shape, f'{message}: {actual.shape} != {expected.shape}'
    if not expected.size:
        return
    if scale is None:
        scale = np.abs(np.asarray(expected, np.float64)).max()
    error = np.abs(np.asarray(actual, np.float64) - np.asarray(expected, np.float64)).max()
    allowed = tolerance(dtype, length, factor) * scale
    assert error <= allowed, f'{message}: error {error:.3g} above {allowed:.3g}'

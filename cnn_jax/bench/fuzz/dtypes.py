"""The dtypes of the cases: values of them, and the dtypes in which NumPy computes the reference."""

import ml_dtypes
import numpy as np

WEIGHTS = {
    'float32': 30, 'bfloat16': 18, 'float16': 12, 'float64': 6, 'float8_e4m3fn': 3,
    'float8_e5m2': 3, 'complex64': 4, 'complex128': 1, 'int8': 10, 'uint8': 3, 'int16': 2,
    'int32': 4, 'int64': 1,
}  # fmt: skip
WIDE = ('float64', 'complex128', 'int64')  # those that need jax_enable_x64


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


def kind(name: str) -> str:
    """Returns 'float', 'complex' or 'int'."""
    return 'int' if 'int' in name else 'complex' if 'complex' in name else 'float'


def exact_dtype(name: str) -> np.dtype:
    """Returns the dtype of the reference."""
    return np.dtype({'float': np.float64, 'complex': np.complex128, 'int': np.int64}[kind(name)])


def exactly(x: np.ndarray) -> np.ndarray:
    return np.asarray(x).astype(exact_dtype(np.dtype(x.dtype).name))


def limits(name: str) -> tuple[int, int]:
    info = ml_dtypes.iinfo(numpy_dtype(name))
    return int(info.min), int(info.max)


def wrapped(x: np.ndarray, name: str) -> np.ndarray:
    """Returns integers modulo 2^bits, as XLA's arithmetic computes them."""
    low, high = limits(name)
    return (x - low) % (high - low + 1) + low if name != 'int64' else x


def roundoff(name: str) -> float:
    """Returns the unit roundoff; 0 for integers."""
    return 0.0 if kind(name) == 'int' else float(_info(name).eps) / 2


def largest(name: str) -> float:
    return float(_info(name).max)


def smallest_normal(name: str) -> float:
    return float(_info(name).smallest_normal)


def _info(name):
    real = {'complex64': 'float32', 'complex128': 'float64'}.get(name, name)
    return ml_dtypes.finfo(numpy_dtype(real))


def values(rng: np.random.Generator, shape: tuple[int, ...], name: str, how: str) -> np.ndarray:
    """Returns an array of the dtype.

    Args:
        rng: the source.
        shape: of the result.
        name: a dtype.
        how: 'normal', 'integers' (small, so that sums are exact), 'distinct' (no two are equal) or
            'full' (integers over the dtype's range).
    """
    if how == 'distinct':
        count = int(np.prod(shape))
        x = (rng.permutation(count) - count // 2).reshape(shape)
    elif how == 'full':
        x = rng.integers(*limits(name), shape, endpoint=True)
    elif how == 'integers' or kind(name) == 'int':
        x = rng.integers(-2 if 'uint' not in name else 0, 3, shape)
    else:
        x = rng.standard_normal(shape)
    if kind(name) == 'complex' and how != 'distinct':
        x = x + 1j * rng.permutation(x.reshape(-1)).reshape(shape)
    return np.asarray(x).astype(numpy_dtype(name))

"""Describes this machine and measures its matrix products and memory bandwidth."""

import importlib.metadata
import os
import platform
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import machine
from cnn_jax.bench import timing

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def describe() -> dict[str, Any]:
    """Returns devices, processor, memory and versions, which any quoted figure must state."""
    device = jax.devices()[0]
    return {
        'platform': device.platform,
        'device_kind': device.device_kind,
        'devices': jax.device_count(),
        'processes': jax.process_count(),
        'device_memory_bytes': _device_memory(device),
        'processor': machine.processor(),
        'cores': machine.cores(),
        'memory_bytes': _memory(),
        'system': f'{platform.system()} {platform.machine()}',
        'python': platform.python_version(),
        'versions': versions(),
        'default_matmul_precision': jax.config.jax_default_matmul_precision,
        'x64': jax.config.jax_enable_x64,
    }


def versions(packages=PACKAGES) -> dict[str, str | None]:
    """Returns the installed version of each package; None if the package is absent."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def one_line(description: dict[str, Any] | None = None) -> str:
    """Formats `describe()` on one line, for titles and tables."""
    d = description or describe()
    where = d['processor'] if d['platform'] == 'cpu' else d['device_kind']
    cores = f', {d["cores"]} cores' if d['platform'] == 'cpu' else ''
    return f'{where}{cores}, {d["devices"]} {d["platform"]} device(s), jax {d["versions"]["jax"]}'


def gemm_peak(dtype: str = 'float32', *, rounds: int = 5, largest: int = 16384) -> float:
    """Measures the peak rate of square matrix products of `dtype`, in GFLOP/s.

    16-bit floats accumulate in float32, int8 in int32. The peak is the maximum over sizes that
    double from 256 up to `largest`, or until one product takes more than 0.1 s.
    """
    best, size = 0.0, 256
    key = jax.random.key(0)
    while size <= largest:
        a = jax.random.normal(key, (size, size), jnp.float32).astype(dtype)
        product = lambda a, b: jnp.dot(a, b, preferred_element_type=_sum_dtype(dtype))  # noqa: E731
        timed = timing.measure({'gemm': product}, a, a, rounds=rounds)['gemm']
        best = max(best, 2 * size**3 / timed.median / 1e9)
        if timed.median > 0.1:
            break
        size *= 2
    return best


def _sum_dtype(dtype):
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.int32
    return jnp.float32 if np.dtype(jnp.dtype(dtype)).itemsize < 4 else jnp.dtype(dtype)


def bandwidth(megabytes: int | None = None, *, rounds: int = 7) -> float:
    """Measures the memory bandwidth in GB/s.

    Returns the higher rate of two tests: reading an array (a sum) and updating it in place (a read
    and a write).

    Args:
        megabytes: size of the array, larger than every cache. None means 256 on a CPU and 1024
            elsewhere.
        rounds: number of samples; the median is used.
    """
    if megabytes is None:
        megabytes = 256 if jax.devices()[0].platform == 'cpu' else 1024
    x = jnp.ones((megabytes, 1 << 18), jnp.float32)
    read = timing.measure({'read': jnp.sum}, x, rounds=rounds)['read'].median
    # The array is donated: a new result of this size would cause page faults and lower the rate.
    update = jax.jit(lambda x: x * 0.999, donate_argnums=0).lower(x).compile()
    state = {'x': update(x)}

    def step():
        state['x'] = update(state['x'])
        return state['x']

    timed = timing.steady({'u': timing.Compiled(step, 0.0, 0.0, None)}, rounds=rounds)['u'].median
    return max(x.nbytes / read, 2 * x.nbytes / timed) / 1e9


def peaks(dtypes=('float32', 'bfloat16')) -> dict[str, Any]:
    """Measures the peak GFLOP/s of each dtype and the bandwidth in GB/s; takes a few seconds."""
    return {
        'gemm_gflops': {dtype: gemm_peak(dtype) for dtype in dtypes},
        'bandwidth_gbs': bandwidth(),
    }


def attainable(peaks: dict[str, Any], dtype: str, intensity: float) -> float:
    """Returns the GFLOP/s that the roofline model allows at `intensity` (FLOP/byte).

    Source: Williams, Waterman & Patterson 2009, "Roofline".
    """
    return min(peaks['gemm_gflops'][dtype], intensity * peaks['bandwidth_gbs'])


def _device_memory(device) -> int | None:
    stats = device.memory_stats() if device.platform != 'cpu' else None
    return stats.get('bytes_limit') if stats else None


def _memory() -> int | None:
    try:
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (ValueError, OSError, AttributeError):
        return None

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
    """Devices, processor, memory and versions: what any figure must be quoted with."""
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
    """Installed versions, None where a package is absent."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def one_line(description: dict[str, Any] | None = None) -> str:
    """`describe()` on one line, for titles and tables."""
    d = description or describe()
    where = d['processor'] if d['platform'] == 'cpu' else d['device_kind']
    cores = f', {d["cores"]} cores' if d['platform'] == 'cpu' else ''
    return f'{where}{cores}, {d["devices"]} {d["platform"]} device(s), jax {d["versions"]["jax"]}'


def gemm_peak(dtype: str = 'float32', *, rounds: int = 5, largest: int = 16384) -> float:
    """The best rate of square matrix products of `dtype`, in GFLOP/s, 16-bit floats summed in
    float32: the maximum over sizes that double from 256 up to `largest`, or until one product takes
    0.1 s."""
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
    return jnp.float32 if np.dtype(jnp.dtype(dtype)).itemsize < 4 else jnp.dtype(dtype)


def bandwidth(megabytes: int | None = None, *, rounds: int = 7) -> float:
    """Memory bandwidth in GB/s: the better of reading an array (sum) and of updating it in place
    (read and write).

    Args:
        megabytes: size of the array; None: 256 on a CPU, 1024 elsewhere, beyond every cache.
        rounds: samples; the median counts.
    """
    if megabytes is None:
        megabytes = 256 if jax.devices()[0].platform == 'cpu' else 1024
    x = jnp.ones((megabytes, 1 << 18), jnp.float32)
    read = timing.measure({'read': jnp.sum}, x, rounds=rounds)['read'].median
    # Donated, because a fresh result of this size costs page faults, which are not bandwidth.
    update = jax.jit(lambda x: x * 0.999, donate_argnums=0).lower(x).compile()
    state = {'x': update(x)}

    def step():
        state['x'] = update(state['x'])
        return state['x']

    timed = timing.steady({'u': timing.Compiled(step, 0.0, 0.0, None)}, rounds=rounds)['u'].median
    return max(x.nbytes / read, 2 * x.nbytes / timed) / 1e9


def peaks(dtypes=('float32', 'bfloat16')) -> dict[str, Any]:
    """Measured limits: GFLOP/s by dtype, and GB/s. Takes a few seconds."""
    return {
        'gemm_gflops': {dtype: gemm_peak(dtype) for dtype in dtypes},
        'bandwidth_gbs': bandwidth(),
    }


def attainable(peaks: dict[str, Any], dtype: str, intensity: float) -> float:
    """The roofline: GFLOP/s that `intensity` (FLOP/byte) allows (Williams, Waterman & Patterson
    2009, "Roofline")."""
    return min(peaks['gemm_gflops'][dtype], intensity * peaks['bandwidth_gbs'])


def _device_memory(device) -> int | None:
    stats = device.memory_stats() if device.platform != 'cpu' else None
    return stats.get('bytes_limit') if stats else None


def _memory() -> int | None:
    try:
        return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    except (ValueError, OSError, AttributeError):
        return None

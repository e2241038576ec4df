"""Properties of this machine, used throughout the package."""

import os
import pathlib
import platform
import re


def cache_folder() -> pathlib.Path:
    """Returns the cache folder, which may be deleted at any time.

    This is $CNN_JAX_CACHE if set, else `cnn_jax` in $XDG_CACHE_HOME if set, else in ~/.cache.
    """
    if chosen := os.environ.get('CNN_JAX_CACHE'):
        return pathlib.Path(chosen).expanduser()
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return pathlib.Path(base).expanduser() / 'cnn_jax'


def processor() -> str:
    """Returns the name of the processor."""
    try:
        text = pathlib.Path('/proc/cpuinfo').read_text()
        found = re.search(r'^model name\s*:\s*(.+)$', text, re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    affinity = getattr(os, 'sched_getaffinity', None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def last_level_cache() -> int:
    """Returns the bytes of the largest cache of a core, or 64 MiB where the system does not say."""
    sizes = [64 << 20]
    for path in pathlib.Path('/sys/devices/system/cpu/cpu0/cache').glob('index*/size'):
        match = re.fullmatch(r'(\d+)([KMG])', path.read_text().strip())
        if match:
            sizes.append(int(match[1]) << {'K': 10, 'M': 20, 'G': 30}[match[2]])
    return max(sizes[1:] or sizes)

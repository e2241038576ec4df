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

"""Facts of this machine that every part of the package shares."""

import os
import pathlib
import platform
import re


def cache_folder() -> pathlib.Path:
    """Returns the folder for what can be computed again: it may be deleted at any time.

    $CNN_JAX_CACHE, or else `cnn_jax` in $XDG_CACHE_HOME, or else in ~/.cache.
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
    """Returns the number of cores that this process may use."""
    affinity = getattr(os, 'sched_getaffinity', None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1

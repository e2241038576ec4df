"""Compiler settings of the test suite: a fifth of the usual compile time, but slower programs.

Tests marked `optimized` compile with all optimisations. Processes that a test starts use the
default settings.
"""

import os

import jax

# Setting this flag to false selects XLA's older loop emitters, which compile faster. XLA aborts on
# unknown flags, so the flag is set only for versions that were tried.
_FLAG = 'xla_cpu_use_fusion_emitters'
_HAS_FLAG = (0, 7) <= jax.__version_info__ < (0, 11)

# For jax.jit(..., compiler_options=): selects the loop emitters that users get.
LOOPS_OF_USERS = {_FLAG: True} if _HAS_FLAG else {}


def x64(enabled: bool = True):
    """Returns a context manager that enables or disables 64-bit types."""
    if hasattr(jax, 'enable_x64'):
        return jax.enable_x64(enabled)
    from jax.experimental import enable_x64

    return enable_x64(enabled)


def set_up() -> None:
    """Sets up fast compilation; call it before the first array is created."""
    jax.config.update('jax_disable_most_optimizations', True)
    if not _HAS_FLAG:
        return
    before = os.environ.get('XLA_FLAGS')
    os.environ['XLA_FLAGS'] = f'{before or ""} --{_FLAG}=false'
    jax.devices()  # reads the flags, only once
    del os.environ['XLA_FLAGS']  # so that processes started by tests do not inherit it
    if before is not None:
        os.environ['XLA_FLAGS'] = before

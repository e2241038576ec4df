"""How the suite compiles: a fifth of the time that users wait, at the price of slower programs.

Tests marked `optimized` compile with all optimisations, processes that a test starts as users do.
"""

import os

import jax

# The older way to write loops, which is compiled in less time. XLA ends the process at a flag that
# it does not know, hence only in versions that were tried.
_FLAG = 'xla_cpu_use_fusion_emitters'
_HAS_FLAG = (0, 7) <= jax.__version_info__ < (0, 11)

# For jax.jit(..., compiler_options=): the loops that users get.
LOOPS_OF_USERS = {_FLAG: True} if _HAS_FLAG else {}


def x64(enabled: bool = True):
    """A context with 64-bit types."""
    if hasattr(jax, 'enable_x64'):
        return jax.enable_x64(enabled)
    from jax.experimental import enable_x64

    return enable_x64(enabled)


def set_up() -> None:
    """To be called before the first array is made."""
    jax.config.update('jax_disable_most_optimizations', True)
    if not _HAS_FLAG:
        return
    before = os.environ.get('XLA_FLAGS')
    os.environ['XLA_FLAGS'] = f'{before or ""} --{_FLAG}=false'
    jax.devices()  # reads the flags, once
    del os.environ['XLA_FLAGS']  # not for processes that tests start
    if before is not None:
        os.environ['XLA_FLAGS'] = before

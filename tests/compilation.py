"""Compiler settings of the test suite: a fifth of the usual compile time, but slower programs.

Tests marked `optimized` compile with all optimisations of LLVM; those of XLA, such as fusion and
constant folding, are always on.
"""

import os

import jax

# XLA aborts on unknown flags, so these are set only for versions that were tried.
_HAS_FLAGS = (0, 7) <= jax.__version_info__ < (0, 11)
_FLAGS = (
    '--xla_cpu_use_fusion_emitters=false'  # the older loop emitters, which compile faster
    # One module per program. Parts would be compiled in parallel, but cost a fifth more in all, and
    # the workers of the suite already keep every core busy.
    ' --xla_cpu_parallel_codegen_split_count=1'
)

# For jax.jit(..., compiler_options=): selects the loop emitters that users get.
LOOPS_OF_USERS = {'xla_cpu_use_fusion_emitters': True} if _HAS_FLAGS else {}


def x64(enabled: bool = True):
    """Returns a context manager that enables or disables 64-bit types."""
    if hasattr(jax, 'enable_x64'):
        return jax.enable_x64(enabled)
    from jax.experimental import enable_x64

    return enable_x64(enabled)


def set_up() -> None:
    """Sets up fast compilation, here and in the processes that tests start.

    Call it before the first array is created.
    """
    jax.config.update('jax_disable_most_optimizations', True)
    os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = 'true'
    if _HAS_FLAGS:
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_FLAGS}'
    jax.devices()  # reads the flags, only once

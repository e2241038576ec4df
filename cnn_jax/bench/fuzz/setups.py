"""The sets of flags of XLA under which cases run; each needs a process of its own."""

import mmap
import os
import pathlib
import subprocess
from typing import NamedTuple

FAST = (
    '--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1'
    ' --xla_cpu_use_fusion_emitters=false'
)


class Setup(NamedTuple):
    name: str
    flags: str
    share: float  # of the time
    narrow: bool = False  # without 64-bit dtypes, as JAX starts
    sharded: bool = False


# LLVM takes most of the time of compilation. 'fast' has the passes over HLO of the default, where
# programs are rewritten, but generates machine code without optimisation.
SETUPS = (
    Setup('fast', FAST, 0.5),
    Setup('fast 32', FAST, 0.1, narrow=True),
    Setup('default', '', 0.1, narrow=True),
    Setup('no optimisation', '--xla_backend_optimization_level=0', 0.05),
    Setup('old emitters', '--xla_cpu_use_fusion_emitters=false', 0.05),
    Setup('no fusion', f'{FAST} --xla_disable_hlo_passes=fusion', 0.04),
    Setup('no simplification', f'{FAST} --xla_disable_hlo_passes=algsimp', 0.04),
    Setup('onednn', f'{FAST} --xla_cpu_use_onednn=true', 0.03),
    Setup('onednn calls', f'{FAST} --xla_cpu_experimental_onednn_custom_call=true', 0.03),
    Setup('no xnnpack', f'{FAST} --xla_cpu_use_xnnpack=false', 0.02),
    Setup('xnnpack', f'{FAST} --xla_cpu_use_xnnpack=true', 0.02),
    Setup('no thunks', f'{FAST} --xla_cpu_use_thunk_runtime=false', 0.02),
    Setup('AVX2', f'{FAST} --xla_cpu_max_isa=AVX2', 0.02),
    Setup('one thread', f'{FAST} --xla_cpu_multi_thread_eigen=false', 0.02),
    Setup('fast math', f'{FAST} --xla_cpu_enable_fast_math=true', 0.02),
    Setup('sharded', f'{FAST} --xla_force_host_platform_device_count=4', 0.08, sharded=True),
)  # fmt: skip


def existing(python: str, setups=SETUPS) -> list[Setup]:
    """Returns the setups whose flags the jaxlib of an interpreter has, without those it lacks.

    XLA ends a process that names a flag that it does not know, so the library is searched for them.
    """
    run = lambda *command, **env: subprocess.run(  # noqa: E731
        [python, *command], env=os.environ | env, capture_output=True, text=True, check=True
    )
    code = 'import jaxlib, pathlib; print(pathlib.Path(jaxlib.__file__).parent)'
    folder = pathlib.Path(run('-c', code).stdout.strip())
    flags = dict.fromkeys(flag for s in setups for flag in s.flags.split())
    found = {flag for flag in flags if _is_known(folder, flag)}
    start = run('-c', 'import jax; jax.devices()', XLA_FLAGS=' '.join(found), JAX_PLATFORMS='cpu')
    ignored = [line for line in start.stderr.splitlines() if 'no longer supported' in line]
    found = {f for f in found if not any(f'"{_name(f)}"' in line for line in ignored)}
    return [
        s._replace(flags=' '.join(flag for flag in s.flags.split() if flag in found))
        for s in setups
        if set(s.flags.split()) - set(FAST.split()) <= found
    ]


def _name(flag: str) -> str:
    return flag.removeprefix('--').partition('=')[0]


def _is_known(folder: pathlib.Path, flag: str) -> bool:
    for library in (*folder.glob('*.so'), *folder.glob('*.so.*')):
        with open(library, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
            if m.find(_name(flag).encode()) >= 0:
                return True
    return False

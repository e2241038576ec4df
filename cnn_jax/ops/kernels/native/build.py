"""Builds the native kernels once per machine, and loads them once per process."""

import concurrent.futures
import contextlib
import ctypes
import fcntl
import functools
import hashlib
import importlib.metadata
import itertools
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from cnn_jax.machine import cache_folder
from cnn_jax.ops.spec import ROLES, ConvSpec

TARGETS = {
    'cnn_jax_onednn': 'CnnJaxConvolve',
    'cnn_jax_winograd': 'CnnJaxWinograd',
    'cnn_jax_depthwise': 'CnnJaxDepthwise',
    'cnn_jax_product': 'CnnJaxProduct',
    'cnn_jax_outer_product': 'CnnJaxOuterProduct',
    'cnn_jax_transpose': 'CnnJaxTranspose',
}
SOURCES = tuple(sorted(p for p in Path(__file__).parent.iterdir() if p.suffix in ('.cc', '.h')))
LIBRARY, HEADERS = 'onednn-cpu-gomp', 'onednn-devel-cpu-gomp'
SWITCH = 'CNN_JAX_NATIVE'  # '0' in the environment disables the native kernels
FLAGS = ('-O2', '-DNDEBUG', '-std=c++17', '-fPIC')

# The dtypes of operands, as in problem.h. The result of int8 is int32.
DTYPES = ('float32', 'bfloat16', 'int8')

# Makes OpenMP threads that become idle wait awake for some 20 microseconds, which covers the steps
# of one call, and then sleep, so that XLA's threads can use the cores. GNU's runtime reads these
# variables once, when it is loaded. With OMP_WAIT_POLICY=passive, threads would not wait awake at
# all where several threads call, as XLA's do.
WAITING = {'OMP_WAIT_POLICY': 'active', 'GOMP_SPINCOUNT': '2000'}

_log = logging.getLogger(__name__)
_lock = threading.Lock()


class Unavailable(Exception):
    """Raised with the reason why there is no native kernel."""


def load() -> ctypes.CDLL:
    """Returns the native library, which is built if no process of this user has built it before.

    Raises:
        Unavailable: with the reason. It is cached, so a process tries only once.
    """
    with _lock:
        result = _load()
    if isinstance(result, str):
        raise Unavailable(result)
    if result.CnnJaxOwner() not in (0, os.getpid()):
        raise Unavailable(
            'this process was forked after the kernel had run, and its threads do not survive '
            "that: start processes with multiprocessing's 'spawn' or 'forkserver'"
        )
    return result


def load_if_built() -> None:
    """Loads the native library on import if it has been built; otherwise does nothing.

    A serialized or exported program from another process can then find the kernel.
    """
    with contextlib.suppress(Unavailable, OSError):
        if os.environ.get(SWITCH) != '0' and _target().exists():
            load()


def divide(count: int) -> None:
    """Lets `count` calls run at the same time, each on an equal share of the threads.

    Call this before the first convolution. It has no effect without the native library.
    """
    with contextlib.suppress(Unavailable):
        load().CnnJaxDivide(count)


def problem(spec: ConvSpec, op: str, dtype: jnp.dtype, plain_kernel: bool = False) -> np.ndarray:
    """Returns the members of `Problem` in problem.h, in order."""
    lo, hi = zip(*spec.padding, strict=True)
    axes = (spec.input_size, spec.window, spec.output_size, spec.strides, spec.dilation, lo, hi)
    scalars = (
        list(ROLES).index(op),
        DTYPES.index(str(dtype)),
        plain_kernel,
        spec.ndim,
        spec.groups,
        spec.batch,
        spec.in_features,
        spec.out_features,
    )
    padded = [(*axis, *[0] * (3 - spec.ndim)) for axis in axes]
    return np.array([*scalars, *itertools.chain(*padded)], np.int64)


@functools.cache
def _load() -> ctypes.CDLL | str:
    try:
        if os.environ.get(SWITCH) == '0':
            raise Unavailable(f'it is switched off by {SWITCH}=0')
        if not sys.platform.startswith('linux') or platform.machine() != 'x86_64':
            raise Unavailable(
                f'it needs Linux on x86-64, not {sys.platform} on {platform.machine()}'
            )
        onednn = _installed(LIBRARY, 'libdnnl.so.3')
        include = _installed(HEADERS, 'oneapi/dnnl/dnnl.hpp').parents[2]
        return _open(onednn, _built(onednn, include))
    except (Unavailable, OSError) as error:
        return str(error).partition('\n')[0]


def _installed(package: str, ending: str) -> Path:
    try:
        files = importlib.metadata.files(package) or ()
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable(
            f"the package {package} is not installed: pip install 'cnn_jax[cpu]'"
        ) from None
    for file in files:
        if str(file).endswith(ending) and (path := Path(str(file.locate())).resolve()).exists():
            return path
    raise Unavailable(f'the package {package} has no {ending}')


def _built(onednn: Path, include: Path) -> Path:
    """Returns the path of the native library, after compiling it if necessary."""
    target = _target()
    if target.exists():
        return target
    compiler = shutil.which('c++') or shutil.which('g++')
    if compiler is None:
        raise Unavailable('there is no C++ compiler (c++ or g++) on the PATH')
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(target.with_suffix('.lock')):
        if not target.exists():  # another process may have been first
            _log.info('building %s (some seconds, once)', target)
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                _compile(compiler, onednn, include, Path(folder)).replace(target)
    return target


def _compile(compiler: str, onednn: Path, include: Path, folder: Path) -> Path:
    """Compiles the sources, as many at a time as there are cores, and links them in `folder`."""
    flags = (*FLAGS, f'-I{jax.ffi.include_dir()}', f'-I{include}', '-c')

    def compiled(source: Path) -> str:
        path = str(folder / f'{source.stem}.o')
        _run(compiler, *flags, str(source), '-o', path)
        return path

    # winograd.cc takes as long as all others together, and is the first of the reversed order.
    sources = [path for path in reversed(SOURCES) if path.suffix == '.cc']
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        objects = list(pool.map(compiled, sources))
    library = folder / 'native.so'
    _run(compiler, '-shared', *objects, str(onednn), '-o', str(library))
    return library


def _target() -> Path:
    try:
        versions = [importlib.metadata.version(package) for package in (LIBRARY, HEADERS)]
    except importlib.metadata.PackageNotFoundError as error:
        raise Unavailable(f'the package {error.name} is not installed') from None
    parts = (*(path.read_text() for path in SOURCES), jaxlib.__version__, *versions, *FLAGS)
    key = hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]
    return cache_folder() / f'native-{key}.so'


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.splitlines() or [f'exit status {result.returncode}']
        first = next((line for line in lines if 'error' in line.lower()), lines[0])
        raise Unavailable(f'{Path(command[0]).name} failed: {first.strip()}')
    return result.stdout


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open(onednn: Path, kernel: Path) -> ctypes.CDLL:
    # oneDNN is loaded first, by its path, so that the loader finds it by name for the kernel. Both
    # stay private (RTLD_LOCAL), because other packages may load their own oneDNN.
    with _environment_defaults(WAITING):
        ctypes.CDLL(str(onednn))
        library = ctypes.CDLL(str(kernel))
    threads = ctypes.CDLL('libgomp.so.1').omp_get_max_threads()
    library.CnnJaxBfloat16Rate.restype = ctypes.c_double
    library.CnnJaxStart(max(1, len(os.sched_getaffinity(0)) // threads))
    for target, function in TARGETS.items():
        handler = jax.ffi.pycapsule(getattr(library, function))
        jax.ffi.register_ffi_target(target, handler, platform='cpu')
    return library


@contextlib.contextmanager
def _environment_defaults(values: dict[str, str]) -> Iterator[None]:
    """Context manager that sets variables, unless the user has set any of them."""
    if values.keys() & os.environ.keys():
        yield
        return
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]

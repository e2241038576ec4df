"""Runs measurements in a separate process."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

from cnn_jax.errors import MissingPackageError

ROOT = pathlib.Path(__file__).parents[2]


def run_python(
    arguments: Sequence[str],
    *,
    what: str,
    given: str | None = None,
    environment: Mapping[str, str] | None = None,
    shows_output: bool = False,
) -> str:
    """Runs Python in a new process that can import this package, and returns its output.

    Args:
        arguments: command-line arguments of `python`.
        what: name of the process in error messages.
        given: text for its standard input.
        environment: additional environment variables.
        shows_output: whether its standard output goes to the terminal instead of being returned.

    Raises:
        MissingPackageError: PyTorch or torchvision is not installed.
        RuntimeError: the process failed; the message has the last line of its traceback.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    # Without filtering, the last line of a traceback is the exception.
    fixed = {'PYTHONPATH': path, 'JAX_TRACEBACK_FILTERING': 'off'}
    done = subprocess.run(
        [sys.executable, *arguments],
        input=given,
        env=os.environ | fixed | (environment or {}),
        text=True,
        stdout=None if shows_output else subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    if done.returncode:
        for module, package in (('torch', 'PyTorch'), ('torchvision', 'torchvision')):
            if f"No module named '{module}'" in done.stderr:
                raise MissingPackageError(
                    f"{package} is not installed: pip install 'cnn_jax[compare]'"
                )
        lines = done.stderr.strip().splitlines() or [f'exit code {done.returncode}']
        raise RuntimeError(f'{what} failed: {lines[-1]}')
    return done.stdout or ''

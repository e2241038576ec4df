"""Measurements in a process of their own."""

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
    """Runs Python with this package importable; returns what it prints.

    Args:
        arguments: of `python`.
        what: names the process in errors.
        given: its standard input.
        environment: additional variables.
        shows_output: whether its standard output goes to the terminal instead.

    Raises:
        MissingPackageError: it lacks PyTorch.
        RuntimeError: it failed; the message has the last line of its traceback.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    # Unfiltered, the exception is the last line of a traceback.
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
        if "No module named 'torch'" in done.stderr:
            raise MissingPackageError("PyTorch is not installed: pip install 'cnn_jax[compare]'")
        lines = done.stderr.strip().splitlines() or [f'exit code {done.returncode}']
        raise RuntimeError(f'{what} failed: {lines[-1]}')
    return done.stdout or ''

"""Runs measurements in a separate process."""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence

from cnn_jax.errors import MissingPackageError

ROOT = pathlib.Path(__file__).parents[2]


def run_python(
    arguments: Sequence[str],
    *,
    what: str,
    given: str | None = None,
    environment: Mapping[str, str] | None = None,
    shows_output: bool = False,
    timeout: float | None = None,
) -> str:
    """Runs Python in a new process that can import this package, and returns its output.

    Args:
        arguments: command-line arguments of `python`.
        what: name of the process in error messages.
        given: text for its standard input.
        environment: additional environment variables.
        shows_output: whether its standard output goes to the terminal instead of being returned.
        timeout: seconds after which the process is killed.

    Raises:
        MissingPackageError: PyTorch or torchvision is not installed.
        subprocess.TimeoutExpired: the process took longer than `timeout`.
        RuntimeError: the process failed; the message has the last line of its traceback.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        input=given,
        env=_environment(environment),
        text=True,
        stdout=None if shows_output else subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=timeout,
    )
    _check(done.returncode, done.stderr, what)
    return done.stdout or ''


def stream_python(
    arguments: Sequence[str], *, what: str, given: str, timeout: float
) -> Iterator[str]:
    """Runs Python as `run_python` does, and yields the lines of its output as they come.

    Raises:
        subprocess.TimeoutExpired, MissingPackageError, RuntimeError: as `run_python`, after the
            lines that the process wrote.
    """
    command = [sys.executable, *arguments]
    is_late = threading.Event()
    with tempfile.TemporaryFile('w+', errors='replace') as errors:
        process = subprocess.Popen(
            command,
            env=_environment(),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        assert process.stdin and process.stdout

        def stop() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(timeout, stop)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(given)
            yield from (line for line in process.stdout if line.endswith('\n'))
            code = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:  # the caller stopped reading
                process.kill()
                process.wait()
            process.stdout.close()
        if is_late.is_set():
            raise subprocess.TimeoutExpired(command, timeout)
        errors.seek(0)
        _check(code, errors.read(), what)


def _environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    # Without filtering, the last line of a traceback is the exception.
    fixed = {'PYTHONPATH': path, 'JAX_TRACEBACK_FILTERING': 'off'}
    return os.environ | fixed | dict(more or {})


def _check(code: int, errors: str, what: str) -> None:
    """Raises the error of a process that failed."""
    if not code:
        return
    for module, package in (('torch', 'PyTorch'), ('torchvision', 'torchvision')):
        if f"No module named '{module}'" in errors:
            raise MissingPackageError(f"{package} is not installed: pip install 'cnn_jax[compare]'")
    lines = errors.strip().splitlines() or [f'exit code {code}']
    raise RuntimeError(f'{what} failed: {lines[-1]}')

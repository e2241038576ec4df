"""Google Cloud, as the launch scripts see it."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.launch import checkout, gcloud


class Google:
    """A checkout whose scripts find a stand-in for `gcloud`, and the world of the stand-in.

    Args:
        folder: an empty folder for both.

    Attributes:
        checkout: the checkout.
        bucket: the folder of gs://bucket.
        machine: the folder of the machine.
        environment: the environment variables of the scripts.
    """

    def __init__(self, folder: pathlib.Path):
        self._world = folder / 'world'
        self.bucket, self.machine = self._world / 'bucket', self._world / 'machine'
        self.bucket.mkdir(parents=True)
        self.checkout = checkout.make(folder / 'checkout')
        subprocess.run(['git', 'init', '--quiet'], cwd=self.checkout, check=True)
        checkout.executable(
            folder / 'bin' / 'gcloud',
            f'#!/bin/sh\nexec {sys.executable} -ISs {gcloud.__file__} "$@"\n',
        )
        self.environment = checkout.environment(
            self.checkout,
            PATH=f'{folder}/bin:{os.environ["PATH"]}',
            CLOUD=str(self._world),
            CNN_JAX_PYTHON=sys.executable,
            PYTHONPATH=str(self.checkout),
            CNN_JAX_POLL_SECONDS='0.2',
            CNN_JAX_BUCKET_SECONDS='0.1',
        )

    def start(self, script: str, *flags: str, plan=()) -> subprocess.Popen:
        """Starts a script; for `plan`, see the stand-in."""
        (self._world / 'plan').write_text('\n'.join(map(str, plan)))
        (self._world / 'calls').write_text('')
        return subprocess.Popen(
            ['bash', f'launch/{script}', *flags],
            cwd=self.checkout,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str, *flags: str, plan=()) -> tuple[int, str]:
        """Runs a script; returns its exit code and its output."""
        process = self.start(script, *flags, plan=plan)
        output = process.communicate(timeout=600)[0]
        return process.returncode, output

    def calls(self) -> list[str]:
        """Returns the calls of the last script, except those that only ask for the state."""
        lines = (self._world / 'calls').read_text().splitlines()
        return [line for line in lines if ' describe ' not in line]

    def machines(self) -> int:
        """Returns the number of machines that were created so far."""
        file = self._world / 'machines'
        return int(file.read_text()) if file.exists() else 0

    def what_is_left(self) -> list[str]:
        """Returns what still costs money, or runs."""
        return [each for each in ('state', 'machine') if (self._world / each).exists()]

    def set_state(self, state: str) -> None:
        (self._world / 'state').write_text(state)


@pytest.fixture
def google(tmp_path):
    return Google(tmp_path)

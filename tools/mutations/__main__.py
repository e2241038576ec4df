"""Checks that the test suite catches faults: python -m tools.mutations [name ...]

Puts each fault alone into a copy of the project and runs the tests that should catch it. Prints one
line per fault and then how many were caught. The exit code is 1 if any fault was not caught.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from tools.mutations import conv_faults, pool_faults
from tools.mutations.fault import Fault

ROOT = pathlib.Path(__file__).parents[2]


FAULTS = conv_faults.FAULTS + pool_faults.FAULTS


def is_caught(fault: Fault, copy: pathlib.Path) -> bool:
    path = copy / 'cnn_jax' / 'ops' / fault.file
    text = path.read_text()
    if text.count(fault.right) < 1:
        raise SystemExit(f'{fault.name}: {fault.file} no longer contains {fault.right!r}')
    path.write_text(text.replace(fault.right, fault.wrong))
    file, *options = fault.tests.split(' ', 1)
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '-x',
        '-p',
        'no:cacheprovider',
        f'tests/ops/{file}',
    ]
    if options:
        command += ['-k', options[0].removeprefix('-k ').strip('"')]
    try:
        result = subprocess.run(command, cwd=copy, env=os.environ, capture_output=True, text=True)
    finally:
        path.write_text(text)
    if result.returncode not in (0, 1):
        raise SystemExit(f'{fault.name}: pytest did not run:\n{result.stdout}{result.stderr}')
    return result.returncode == 1


def main() -> int:
    names = sys.argv[1:]
    faults = [f for f in FAULTS if not names or f.name in names]
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / 'copy'
        for part in ('cnn_jax', 'tests'):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy(ROOT / 'pyproject.toml', copy)
        for fault in faults:
            caught = is_caught(fault, copy)
            print(f'{"caught" if caught else "MISSED"}  {fault.name}', flush=True)
            missed += [] if caught else [fault.name]
    print(f'{len(faults) - len(missed)} of {len(faults)} faults caught')
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())

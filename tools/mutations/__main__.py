"""Checks that faults are caught: python -m tools.mutations [--by=fuzzer] [name ...]

Puts each fault alone into a copy of the project and runs the tests that should catch it, or the
fuzzer (cnn_jax/bench/fuzz/ours.py). Prints one line per fault, with the seconds that it took, and
then how many were caught. The exit code is 1 if any fault was not caught.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from tools.mutations import conv_faults, native_faults, pallas_faults, pool_faults
from tools.mutations.fault import Fault

ROOT = pathlib.Path(__file__).parents[2]


FAULTS = conv_faults.FAULTS + native_faults.FAULTS + pool_faults.FAULTS + pallas_faults.FAULTS


def is_caught(fault: Fault, copy: pathlib.Path, command: list[str]) -> tuple[bool, str]:
    path = copy / 'cnn_jax' / 'ops' / fault.file
    text = path.read_text()
    if text.count(fault.right) < 1:
        raise SystemExit(f'{fault.name}: {fault.file} no longer contains {fault.right!r}')
    path.write_text(text.replace(fault.right, fault.wrong))
    env = os.environ | {'PYTHONPATH': str(copy)}
    try:
        result = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    finally:
        path.write_text(text)
    if result.returncode > 1:
        raise SystemExit(f'{fault.name}: {command} failed:\n{result.stdout}{result.stderr}')
    return result.returncode != 0, result.stdout  # negative: the fault ended the process


def tests(fault: Fault) -> list[str]:
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
    return command


def fuzzer(seconds: float) -> list[str]:
    return [sys.executable, '-m', 'cnn_jax.bench.fuzz.ours', f'--seconds={seconds}']


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('names', nargs='*', help='faults (default: all)')
    parser.add_argument('--by', choices=('tests', 'fuzzer'), default='tests')
    parser.add_argument('--seconds', type=float, default=300, help='time of the fuzzer per fault')
    parser.add_argument('--verbose', action='store_true', help='print what tests or fuzzer say')
    arguments = parser.parse_args()
    faults = [f for f in FAULTS if not arguments.names or f.name in arguments.names]
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / 'copy'
        for part in ('cnn_jax', 'tests'):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy(ROOT / 'pyproject.toml', copy)
        for fault in faults:
            begun = time.monotonic()
            by_tests = arguments.by == 'tests'
            command = tests(fault) if by_tests else fuzzer(arguments.seconds)
            caught, output = is_caught(fault, copy, command)
            seconds = time.monotonic() - begun
            print(f'{"caught" if caught else "MISSED"}  {seconds:4.0f} s  {fault.name}', flush=True)
            if arguments.verbose:
                print(output)
            missed += [] if caught else [fault.name]
    print(f'{len(faults) - len(missed)} of {len(faults)} faults caught')
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())

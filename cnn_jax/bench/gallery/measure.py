"""Runs entries of the gallery here: with XLA's own convolution, and with this package."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

import cnn_jax
from cnn_jax.bench import timing
from cnn_jax.bench.gallery.entry import Case, Entry, Finding, checked
from cnn_jax.bench.kernels import compare
from cnn_jax.bench.kernels.problem import parse
from cnn_jax.bench.process import ROOT
from cnn_jax.errors import first_line

INSTALLED = {'lax': False, 'ours': True}


def findings(
    entry: Entry, *, rounds: int = 5, limit: float = 2.0, small: bool = False, sides=('lax', 'ours')
) -> dict[str, Finding]:
    """Returns what each side does in the situation of an entry.

    Args:
        entry: the entry.
        rounds, limit: see `timing.steady`. With 0 rounds, results are checked but not timed.
        small: whether to run the smaller version.
        sides: some of 'lax' and 'ours'.
    """
    sides = tuple(side for side in sides if side == 'lax' or entry.has_ours)
    with _x64(entry.x64):
        if entry.problem:
            return _problem(entry, rounds, limit, small, sides)
        if entry.kind == 'correctness':
            run = _in_a_process if entry.environment is not None else _fault
            return {side: run(entry, side) for side in sides}
        assert entry.program is not None
        return _case(entry, entry.program(small), rounds, limit, sides)


def _x64(enabled: bool):
    if not enabled:
        return contextlib.nullcontext()
    if hasattr(jax, 'enable_x64'):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64(True)


def _problem(entry, rounds, limit, small, sides):
    names = {'lax': 'lax', 'ours': 'default'}
    rows = compare.measure(
        parse(small and entry.small or entry.problem),
        entry.direction,
        entry.dtype,
        names=[names[side] for side in sides],
        rounds=rounds if entry.kind == 'speed' else 0,
        limit=limit,
    )
    chosen = {'lax': lambda row: row.kernel == 'lax', 'ours': lambda row: row.chosen}
    return {
        side: Finding(row.right, row.error, row.reason, row.steady_s)
        for side in sides
        for row in rows
        if chosen[side](row)
    }


def _fault(entry: Entry, side: str) -> Finding:
    assert entry.program is not None
    with _side(side):
        try:
            got, expected = entry.program()
            if side == 'ours' and entry.ours:
                got = entry.ours()
            return checked(got, expected)
        except Exception as error:  # the finding
            return Finding(False, None, first_line(error, 100))


def _in_a_process(entry: Entry, side: str) -> Finding:
    assert entry.environment is not None
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(
        [sys.executable, '-m', 'cnn_jax.bench.gallery.measure', entry.reference, side],
        env=os.environ | {'PYTHONPATH': path} | entry.environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return Finding(False, None, ended(done.returncode))
    return Finding(**json.loads(done.stdout.splitlines()[-1]))


def ended(code: int) -> str:
    """Returns how a process ended, in words."""
    import signal

    how = f'signal {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'
    return f'the process ends with {how}'


def _case(entry: Entry, case: Case, rounds: int, limit: float, sides) -> dict[str, Finding]:
    made: dict[str, timing.Compiled] = {}
    found: dict[str, Finding] = {}
    expected = case.expected() if case.expected else None
    for side in sides:
        function = case.ours if side == 'ours' and case.ours else case.function
        found[side] = _made(made, side, side, function, case.operands)
        if side in made and expected is not None:
            found[side] = checked(made[side].result, expected, case.tolerance)
        if rounds and case.baseline:
            _made(made, f'{side} baseline', side, *case.baseline)
    if entry.what == 'compile':
        times = {name: one.compile for name, one in made.items()}
    else:
        light = {name: dataclasses.replace(one, result=None) for name, one in made.items()}
        timed = timing.steady(light, rounds=rounds, limit=limit) if rounds else {}
        times = {name: one.median for name, one in timed.items()}
    return {
        side: dataclasses.replace(
            one, seconds=times.get(side), baseline=times.get(f'{side} baseline')
        )
        for side, one in found.items()
    }


def _made(
    made: dict[str, timing.Compiled],
    name: str,
    side: str,
    function: Callable[..., Any],
    operands: tuple[np.ndarray, ...],
) -> Finding:
    """Compiles a function under `name`, and returns why if it fails."""
    with _side(side):
        try:
            # A new function, since jit would return what was compiled for another side.
            made[name] = timing.compile(lambda *a: function(*a), *map(jax.numpy.asarray, operands))
        except Exception as error:  # the finding
            return Finding(False, None, first_line(error, 100))
    return Finding()


@contextlib.contextmanager
def _side(side: str) -> Iterator[None]:
    with cnn_jax.installed(INSTALLED[side]):
        yield


if __name__ == '__main__':
    from cnn_jax.bench.gallery import entries

    this = next(entry for entry in entries.ALL if entry.reference == sys.argv[1])
    print(json.dumps(dataclasses.asdict(_fault(this, sys.argv[2]))))

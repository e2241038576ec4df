"""Runs entries in PyTorch, in a process of its own: python -m cnn_jax.bench.gallery.torch_side

The names of the entries come from standard input; the findings go to standard output. Speed entries
run first: until then nothing has run in JAX, whose threads would slow PyTorch's.
"""

import contextlib
import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Sequence

import numpy as np

from cnn_jax.bench.gallery import entries
from cnn_jax.bench.gallery.entry import Entry, Finding, checked
from cnn_jax.bench.kernels import reference, torch_side
from cnn_jax.bench.kernels.compare import MAPS
from cnn_jax.bench.kernels.problem import parse
from cnn_jax.bench.process import run_python
from cnn_jax.errors import first_line
from cnn_jax.ops.spec import ROLES


def findings(chosen: Sequence[Entry], *, rounds: int, small: bool) -> dict[str, Finding]:
    """Returns what PyTorch does, by reference; nothing if PyTorch is not installed.

    Args:
        chosen: the entries.
        rounds: samples of each time; 0: check only.
        small: whether to run the smaller versions.
    """
    if importlib.util.find_spec('torch') is None:
        return {}
    given = {'entries': [e.reference for e in chosen], 'rounds': rounds, 'small': small}
    text = run_python(
        ['-m', 'cnn_jax.bench.gallery.torch_side'], what='PyTorch', given=json.dumps(given)
    )
    found = json.loads(text.splitlines()[-1])
    return {reference: Finding(**values) for reference, values in found.items()}


def _main() -> None:
    given = json.load(sys.stdin)
    known = {entry.reference: entry for entry in entries.ALL}
    found = {}
    for name in sorted(given['entries'], key=lambda name: known[name].kind != 'speed'):
        start = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):  # Keras prints
            try:
                one = _run(known[name], given['rounds'], given['small'])
            except Exception as error:  # shown in PyTorch's column
                one = Finding(False, None, first_line(error))
        print(f'{name}: {time.perf_counter() - start:.1f} s', file=sys.stderr)
        if one:
            found[name] = dataclasses.asdict(one)
    print(json.dumps(found))


def _run(entry: Entry, rounds: int, small: bool) -> Finding | None:
    import torch

    torch.manual_seed(0)
    if entry.problem:
        return _problem(entry, torch, rounds, small)
    if entry.kind == 'correctness':
        return _fault(entry, torch)
    assert entry.program is not None
    case = entry.program(small)
    if case.torch is None:
        return None
    run = case.torch(torch)
    with torch.no_grad():
        got = run()
    tolerance = case.tolerance or 100 * torch.finfo(got.dtype).eps
    one = checked(_numpy(got), case.expected(), tolerance)
    if rounds:
        one = dataclasses.replace(one, seconds=torch_side.seconds(run, torch, 'cpu', rounds))
    if rounds and case.torch_baseline:
        base = case.torch_baseline(torch)
        one = dataclasses.replace(one, baseline=torch_side.seconds(base, torch, 'cpu', rounds))
    return one


def _fault(entry: Entry, torch) -> Finding | None:
    """Returns the finding of a program in PyTorch; the expected result is in the program."""
    if entry.torch is None:
        return None
    assert entry.program is not None
    return checked(_numpy(entry.torch(torch)), entry.program()[1])


def _problem(entry: Entry, torch, rounds: int, small: bool) -> Finding | None:
    problem = parse(small and entry.small or entry.problem)
    job = torch_side.job(problem, entry.direction, entry.dtype)
    if job is None:
        return None
    spec = problem.spec(entry.dtype)
    op = MAPS[problem.op][entry.direction]
    rng = np.random.default_rng(0)
    operands = {role: rng.standard_normal(spec.shape(role), np.float32) for role in ROLES[op][:2]}
    operands[ROLES[op][2]] = np.zeros(spec.shape(ROLES[op][2]), np.float32)
    names = {'x': 'y', 'y': 'x', 'w': 'w'} if problem.op == 'conv_transpose' else None
    arrays = {(names or {}).get(role, role): array for role, array in operands.items()}
    run = torch_side.call(job, torch, 'cpu', arrays)
    rounded = [
        torch.from_numpy(operands[role]).to(getattr(torch, entry.dtype)).double().numpy()
        for role in ROLES[op][:2]
    ]
    with torch.no_grad():
        result = run()
    if entry.direction == 'filter_grad':
        result = result[1]
    last = (2, 3, 4)[: spec.ndim]
    order = (*last, 1, 0) if entry.direction == 'filter_grad' else (0, *last, 1)
    smaller, a, b, cut, _ = reference.part(op, spec, *rounded, 5e8)
    expected = reference.MAPS[op](a, b, smaller)
    error = reference.relative_error(cut(_numpy(result.permute(order))), expected)
    right = error <= reference.tolerance(entry.dtype, spec, op)
    seconds = torch_side.seconds(run, torch, 'cpu', rounds) if rounds else None
    return Finding(bool(right), error, '', seconds)


def _numpy(tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype.itemsize < 4 else tensor).numpy()


if __name__ == '__main__':
    _main()

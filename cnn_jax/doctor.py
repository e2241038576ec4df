"""Checks this machine and the installed versions, in about a minute: python -m cnn_jax.doctor

Reports devices, memory and versions; the measured speed of a matrix product and of memory; whether
the native kernel is available; and the data sets found. Compares the three passes of every kernel
with float64, in every dtype and number of dimensions: each is right, wrong (with its error), or not
supported (with the reason).

Exit codes: 0 nothing is wrong; 1 a result is wrong; 2 an invalid flag.
"""

import argparse
import concurrent.futures
import json
import pathlib
import sys
import time
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.bench import machine
from cnn_jax.bench.kernels import compare, reference
from cnn_jax.bench.kernels.problem import Problem, parse
from cnn_jax.errors import MissingPackageError, first_line, optional_packages
from cnn_jax.ops import dispatch, kernels
from cnn_jax.ops.lowering import internals
from cnn_jax.ops.spec import ROLES
from cnn_jax.output import ends_with_its_reader

DTYPES = ('float32', 'bfloat16', 'float16')

# By number of dimensions. Each kernel is tried on the first problem that it supports, which covers
# kernels for special windows too.
PROBLEMS = {
    1: ('mb2_ic4iw12oc6kw3pw1', 'mb2_ic4iw12oc6kw1'),
    2: ('mb2_ic4ih8oc6kh3ph1', 'mb2_ic4ih8oc6kh1', 'g4mb2_ic4ih8oc4kh3ph1'),
    3: ('mb1_ic2id5oc4kd2', 'mb1_ic2id5oc4kd1', 'mb1_ic2id6oc4kd3pd1'),
}
POOLS = ('max_pool:mb2_ic3ih8kh2sh2', 'avg_pool:mb2_ic3ih8kh2sh2')


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser('python -m cnn_jax.doctor', description=__doc__.split('\n')[0])
    parser.add_argument('--json', help='also write the findings to this file')
    parser.add_argument('--data_dir', help='folder of prepared data sets')
    parser.add_argument('--kernels', help='kernels to check, separated by commas (default: all)')
    flags = parser.parse_args(argv)
    try:
        with optional_packages('bench'):
            import threadpoolctl  # noqa: F401  # `compare.measure` needs it
    except MissingPackageError as error:
        parser.error(str(error))
    known = dispatch.implementations('conv')
    names = tuple(flags.kernels.split(',')) if flags.kernels else known
    if unknown := [name for name in names if name not in known]:
        parser.error(f'unknown kernel {unknown[0]!r}; must be one of {", ".join(known)}')
    start = time.perf_counter()
    description, limits = machine.describe(), machine.peaks()
    print(machine_text(description, limits))
    print(f'float32 products by default: {default_precision()}')
    print(f'native kernel: {native()}')
    print(f'kernels as lowerings: {lowerings()}')
    print(f'memory: {allocator()}')
    print(f'data sets: {data_sets(flags.data_dir)}\n')
    # Most of the time is spent compiling, which does not hold the global interpreter lock.
    with concurrent.futures.ThreadPoolExecutor(description['cores']) as pool:
        cases = [(name, ndim, dtype) for name in names for dtype in DTYPES for ndim in PROBLEMS]
        checks = list(pool.map(lambda case: check_kernel(*case), cases))
    print(matrix_text(checks))
    pools = check_pools()
    print('\npools, float32: ' + ', '.join(f'{p["kernel"]} {p["finding"]}' for p in pools))
    wrong = [c for c in checks + pools if c['right'] is False]
    if flags.json:
        findings = {
            'machine': description,
            'peaks': limits,
            'default_precision': default_precision(),
            'native': native(),
            'lowerings': lowerings(),
            'allocator': allocator(),
            'data_sets': data_sets(flags.data_dir),
            'kernels': checks,
            'pools': pools,
        }
        pathlib.Path(flags.json).write_text(json.dumps(findings, indent=1) + '\n')
    seconds = time.perf_counter() - start
    right = sum(c['right'] is True for c in checks + pools)
    verdict = f'{len(wrong)} WRONG' if wrong else 'none wrong'
    print(f'{right} combinations right, {verdict}, in {seconds:.0f} s')
    return 1 if wrong else 0


def check_kernel(name: str, ndim: int, dtype: str) -> dict[str, Any]:
    """Compares the three passes of a kernel on a small problem with float64.

    The passes are compiled together.

    Returns:
        A dict with kernel, ndim, dtype, problem, `right` (None if not supported), `error` (the
        largest relative error), `passes` (those supported) and `finding` (a short description).
    """
    found = {'kernel': name, 'ndim': ndim, 'dtype': dtype, 'right': None, 'error': None}
    reasons = {}
    for text in PROBLEMS[ndim]:
        problem = parse(text)
        spec = problem.spec(dtype, 'highest')
        reasons = {op: kernels.reason_against(name, op, spec) for op in compare.PASSES}
        supported = [op for op in compare.PASSES if reasons[op] is None]
        if supported:
            break
    found |= {'problem': str(problem), 'passes': supported}
    if not supported:
        return found | {'finding': f'not supported: {reasons["forward"]}'}
    try:
        errors = _errors(name, spec, supported)
    except Exception as error:  # any error of a kernel is a finding
        finding = f'failed: {first_line(error)}'
        return found | {'right': False, 'error': float('inf'), 'finding': finding}
    right = all(e <= reference.tolerance(dtype, spec, op) for op, e in errors.items())
    finding = f'{"right" if right else "WRONG"}, error {max(errors.values()):.0e}'
    return found | {'right': right, 'error': max(errors.values()), 'finding': finding}


def _errors(name, spec, supported):
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.standard_normal(shape, np.float32)).astype(spec.dtype)  # noqa: E731
    operands = {'x': draw(spec.x_shape), 'w': draw(spec.kernel_shape), 'y': draw(spec.y_shape)}
    given = {op: [operands[role] for role in roles[:2]] for op, roles in ROLES.items()}
    run = jax.jit(
        lambda given: {
            op: kernels.function(name, op)(given[op][0], given[op][1], spec) for op in supported
        }
    )
    results = run(given)
    return {
        op: reference.relative_error(
            np.asarray(results[op]),
            reference.MAPS[op](np.asarray(given[op][0]), np.asarray(given[op][1]), spec),
        )
        for op in supported
    }


def check_pools() -> list[dict[str, Any]]:
    """Checks every pooling kernel, forward and gradient, in float32."""
    found = []
    for text in POOLS:
        problem: Problem = parse(text)
        rows = [
            row
            for direction in compare.passes(problem)
            for row in compare.measure(problem, direction, rounds=0)
        ]
        for kernel in dict.fromkeys(row.kernel for row in rows):
            mine = [row for row in rows if row.kernel == kernel]
            verdicts = [False if row.reason.startswith('failed') else row.right for row in mine]
            right = False if False in verdicts else None if None in verdicts else True
            word = {True: 'right', False: 'WRONG', None: 'not supported'}[right]
            found.append(
                {'kernel': f'{problem.op}/{kernel}', 'right': right, 'finding': word}
                | {'problem': text, 'reasons': [row.reason for row in mine]}
            )
    return found


def default_precision() -> str:
    """Returns the precision of float32 matrix products by default."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((256, 256), np.float32) for _ in range(2))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    error = reference.relative_error(np.asarray(jnp.dot(a, b)), exact)
    kind = (
        'float32'
        if error < 1e-5
        else 'TF32 or three bfloat16 passes'
        if error < 1e-3
        else 'bfloat16'
    )
    return f'{kind} (error {error:.0e})'


def native() -> str:
    """Returns whether the native CPU kernel is available, or why not."""
    reason = kernels.reason_against('onednn', 'forward', parse(PROBLEMS[2][0]).spec())
    return 'oneDNN, built' if reason is None else f'not available: {reason}'


def lowerings() -> str:
    """Returns whether this version of JAX has the internals that lowering the kernels needs."""
    if internals.missing:
        return f'OFF, XLA computes everything: {internals.missing}'
    return 'available'


def allocator() -> str:
    """Returns which allocator of memory is preloaded, or how to preload a faster one."""
    maps = pathlib.Path('/proc/self/maps')
    loaded = maps.read_text() if maps.exists() else ''
    for name in ('mimalloc', 'jemalloc', 'tcmalloc'):
        if f'lib{name}' in loaded:
            return f'{name}, preloaded'
    library = mimalloc()
    if library is None:
        return "the system's allocator"
    return (
        "the system's allocator; faster on a CPU: "
        f'export LD_PRELOAD={library} MIMALLOC_ALLOW_THP=2 MIMALLOC_PURGE_DELAY=10000'
    )


def mimalloc() -> pathlib.Path | None:
    """Returns the path of mimalloc, which the extra `cpu` installs, or None."""
    try:
        files = metadata.files('cmeel-mimalloc') or []
    except metadata.PackageNotFoundError:
        return None
    found = (file.locate() for file in files if file.name == 'libmimalloc.so')
    return next((pathlib.Path(str(path)) for path in found), None)


def data_sets(data_dir: str | None = None) -> str:
    """Lists the prepared data sets in a folder; None means the default folder of TFDS."""
    try:
        from cnn_jax.data import prepared
    except MissingPackageError as error:
        return str(error)
    folder = pathlib.Path(data_dir) if data_dir else prepared.default_data_dir()
    if not folder.is_dir():
        return f'digits (embedded); no folder {folder}'
    found = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return f'digits (embedded); {", ".join(found) or "nothing"} in {folder}'


def machine_text(description: dict[str, Any], limits: dict[str, Any]) -> str:
    """Returns the first lines of the report."""
    memory = description['memory_bytes']
    of_device = description['device_memory_bytes']
    rates = ', '.join(f'{d} {g:,.0f} GFLOP/s' for d, g in limits['gemm_gflops'].items())
    parts = [
        machine.one_line(description),
        f'memory {memory / 2**30:.1f} GiB' if memory else 'memory unknown',
        f'device memory {of_device / 2**30:.1f} GiB' if of_device else '',
        f'measured: matrix product {rates}; memory {limits["bandwidth_gbs"]:.0f} GB/s',
        'versions: ' + ', '.join(f'{k} {v}' for k, v in description['versions'].items()),
        f'Python {description["python"]}, {description["system"]}',
    ]
    return '\n'.join(part for part in parts if part)


def matrix_text(checks: list[dict[str, Any]]) -> str:
    """Returns a table of kernels by dtype and dimensions, and notes on wrong or missing passes."""
    columns = [(dtype, ndim) for dtype in DTYPES for ndim in PROBLEMS]
    cells = {(c['kernel'], c['dtype'], c['ndim']): c for c in checks}
    names = list(dict.fromkeys(c['kernel'] for c in checks))
    lines = [
        'relative error of forward and both gradients against float64 (- not supported, ! wrong)',
        f'{"kernel":<12}' + ''.join(f'{dtype:<27}' for dtype in DTYPES),
        f'{"":<12}' + ''.join(f'{f"{ndim}-D":<9}' for _, ndim in columns),
    ]
    for name in names:
        line = ''.join(f'{_cell(cells[name, *column]):<9}' for column in columns)
        lines.append(f'{name:<12}{line}'.rstrip())
    notes = dict.fromkeys(
        f'{c["kernel"]}, {c["ndim"]}-D, {c["dtype"]}: {c["finding"]}'
        for c in checks
        if not c['right'] or len(c['passes']) < 3
    )
    return '\n'.join([*lines, *notes])


def _cell(check):
    if check['error'] is None:
        return '-'
    return f'{check["error"]:.0e}' + ('' if check['right'] else ' !')


if __name__ == '__main__':
    with ends_with_its_reader():
        sys.exit(main())

"""Writes what a campaign found: a report for each kind of fault, with a program that shows it."""

import json
import os
import pathlib
import re
import subprocess
from collections.abc import Sequence
from typing import Any

from cnn_jax.bench import reports
from cnn_jax.bench.fuzz import check, our_conv, ours
from cnn_jax.bench.fuzz.source import source

Fault = dict[str, Any]


def all_reports(output: pathlib.Path, pythons: Sequence[str]) -> list[pathlib.Path]:
    """Writes a report of the smallest case of each kind of fault in faults.jsonl.

    Args:
        output: folder of a campaign; the reports go to its folder `reports`.
        pythons: interpreters with which to run each program, to tell which versions have the fault.

    Returns:
        The paths. A fault that no version shows in a program of its own has no report.
    """
    lines = (output / 'faults.jsonl').read_text().splitlines()
    smallest: dict[tuple, Fault] = {}
    for fault in map(json.loads, lines):
        if fault.get('case') and not fault['company']:
            key = kind(fault)
            if key not in smallest or _size(fault) < _size(smallest[key]):
                smallest[key] = fault
    folder, paths = output / 'reports', []
    folder.mkdir(exist_ok=True)
    for number, fault in enumerate(smallest.values(), 1):
        if text := one(fault, pythons):
            paths.append(folder / f'{number:02}.md')
            paths[-1].write_text(text)
    return paths


def kind(fault: Fault) -> tuple:
    """Returns what two faults have in common if they are probably one."""
    case = fault['case']
    return (
        fault['kind'], case['op'], 'int' in case['dtype'], case['derivative'], 'shard' in case,
        case['spec'].get('groups', 1) > 1, case['spec'].get('reducer'),
        all(o['constant'] for o in case['operands']), any(o['words'] for o in case['operands']),
        fault['setup'] if fault['setup'].startswith('no ') else '',
    )  # fmt: skip


def _size(fault):
    return len(json.dumps(fault['case']))


def one(fault: Fault, pythons: Sequence[str]) -> str:
    """Returns a report, or '' if no interpreter shows the fault with a program of its own."""
    case = fault['case']
    match = re.match(r'result (\d+)', fault['message'])
    program = source(case, int(match[1]) if match else 0)
    shown, got, wanted = [], '', ''
    flags_of = {'the default flags': '', f'the flags of {fault["setup"]!r}': fault['flags']}
    for python in pythons:
        for name, flags in flags_of.items():
            found = _run(python, program, flags)
            if found['wrong']:
                got, wanted = found['got'], found['wanted']
            state = 'wrong' if found['wrong'] else 'right'
            shown.append(f'jax {found["version"]} with {name}: {state}')
    if not got:
        return ''
    title = f'{case["op"]} of {case["dtype"]}: {fault["message"].split(": ", 1)[-1]}'
    how = f'Found by case {fault["number"]} of the fuzzer.' + vote(case)
    return reports.report(
        title[:120], program, wanted or 'no error', got,
        notes=how + '\n' + '\n'.join(f'* {line}' for line in shown),
    )  # fmt: skip


def vote(case: dict[str, Any]) -> str:
    """Returns which of our kernels agree with the reference on a convolution."""
    if case['op'] != 'conv' or 'shard' in case or not case['spec']['size']:
        return ''
    judged: dict[bool, list[str]] = {True: [], False: []}
    for name in our_conv.KERNELS[1:]:
        spec = case['spec'] | {'implementation': name}
        (verdict,) = check.verdicts([case | {'spec': spec}], ours.build)
        judged[verdict.kind == 'right'].append(str(name))
    agree, differ = (', '.join(judged[key]) or 'none' for key in (True, False))
    return (
        f'\nKernels of cnn_jax that agree with float64 NumPy: {agree}; that do not: {differ}. '
        f"XLA's convolution runs for a kernel that cannot compute this case."
    )


def _run(python, program, flags):
    env = os.environ | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': ''}
    code = f'import jax; print("version", jax.__version__)\n{program}'
    done = subprocess.run([python, '-c', code], env=env, capture_output=True, text=True)
    found = dict(line.split(' ', 1) for line in done.stdout.splitlines() if ' ' in line)
    if done.returncode:
        lines = [x for x in done.stderr.splitlines() if 'Error: ' in x] or ['ended by a signal']
        last = lines[-1]
        return {'wrong': 'Unknown flag' not in done.stderr, 'got': last, 'wanted': '',
                'version': found.get('version', python)}  # fmt: skip
    found['wrong'] = complex(found['largest'].removeprefix('error ')) != 0
    return found

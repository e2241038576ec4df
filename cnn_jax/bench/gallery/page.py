"""Writes what a run of the gallery found: a page with a table, and reports of faults."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

from cnn_jax.bench import machine, reports
from cnn_jax.bench.gallery import faults, measure
from cnn_jax.bench.gallery.entry import SIDES, Entry, Finding, slowness, verdict

Found = Mapping[str, Finding]  # by side

TITLES = {'correctness': 'Correctness', 'speed': 'Speed'}
NAMES = {'forward': '', 'input_grad': ', input gradient', 'filter_grad': ', kernel gradient'}


def page(results: Sequence[tuple[Entry, Found]], command: str) -> str:
    """Returns the page of the documents: introduction, the two tables, and how to repeat them.

    Args:
        results: every entry with what each side does.
        command: the command that wrote the page.
    """
    parts = [_introduction(results, command)]
    for kind, title in TITLES.items():
        rows = [(entry, found) for entry, found in results if entry.kind == kind]
        parts += [f'## {title}', _NOTES[kind], table(rows)]
    return '\n\n'.join(parts) + '\n'


_NOTES = {
    'correctness': """\
"Wrong" comes with the relative error against float64 NumPy, or with what happened instead. "ours"
is the same program after `cnn_jax.install()`, or this package's own operation. "-": the side has no
counterpart. "By design": the library documents what it does, which differs from what the thread
expects.""",
    'speed': """\
Milliseconds of one call, or of compiling it if the cell says so; after a slash, of the baseline. A
claim still holds if its subject (XLA's `lax`; PyTorch in claims that begin with it) takes at least
so many times as long as what it is compared with: "16 of 2 x PyTorch" means that it takes 16 times
as long as PyTorch, and that the limit is 2. Other programs on the machine change times: verdicts
near their limit may turn in the next run.""",
}


def _introduction(results, command):
    words = [(entry.kind, verdict(entry, found)) for entry, found in results]
    summary = '; '.join(
        f'{title}: '
        + ', '.join(f'{words.count(one)} {one[1]}' for one in sorted(set(words)) if one[0] == kind)
        for kind, title in TITLES.items()
    )
    ours = [found['ours'].right for _, found in results if 'ours' in found]
    summary += f'. This package is right in {sum(map(bool, ours))} of {len(ours)}'
    versions = machine.versions(('jax', 'jaxlib', 'flax', 'torch', 'keras', 'onednn-cpu-gomp'))
    known = ', '.join(f'{name} {version}' for name, version in versions.items() if version)
    where = machine.describe()
    return f"""\
# Public threads, run again

What public threads say is wrong with convolutions in JAX, XLA and the libraries around them, as
{len(results)} programs that run here, and whether it still holds. Each claim is in our words; each
program and size is ours. A thread about a GPU counts if a CPU can show the situation. This page
is made by:

```bash
{command}
```

The run also writes `results.json`, and `reports/`: for every fault of XLA or JAX that still holds
and is not by design, a program that runs without this package, the expected result, and what
happened. Nothing is sent.

{summary}. {where['processor']}, {where['cores']} cores; {known}."""


def table(rows: Sequence[tuple[Entry, Found]]) -> str:
    """Returns a Markdown table with one row per entry."""
    lines = ['| thread | claim | situation | lax | ours | PyTorch | verdict |', '|---' * 7 + '|']
    for entry, found in rows:
        cells = [
            f'[{entry.reference}]({entry.address})',
            entry.claim + (f' ({entry.remark})' if entry.remark else ''),
            _situation(entry),
            *(_cell(entry, found.get(side)) for side in SIDES),
            _verdict(entry, found),
        ]
        lines.append('| ' + ' | '.join(cell.replace('|', r'\|') for cell in cells) + ' |')
    return '\n'.join(lines)


def _situation(entry: Entry) -> str:
    if not entry.problem:
        return entry.name
    dtype = '' if entry.dtype == 'float32' else f', {entry.dtype}'
    return f'`{entry.problem}`{NAMES[entry.direction]}{dtype}'


def _cell(entry: Entry, finding: Finding | None) -> str:
    if finding is None:
        return '-'
    wrong = ''
    if finding.right is False:
        word = 'differs' if entry.by_design else 'wrong'
        error = f'{word}, {finding.error:.0e}' if finding.error is not None else word
        wrong = f'{error}: {finding.reason}' if finding.reason else error
    if entry.kind == 'correctness':
        return wrong or 'right'
    if wrong:
        return wrong
    if finding.seconds is None:
        return 'right'
    text = f'{_milliseconds(finding.seconds)} ms'
    if finding.baseline:
        text += f' / {_milliseconds(finding.baseline)} ms'
    return f'{text} to compile' if entry.what == 'compile' else text


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _verdict(entry: Entry, found: Found) -> str:
    word = verdict(entry, found)
    if entry.kind == 'correctness':
        return f'{word}, by design' if entry.by_design and word == 'still so' else word
    ratio = slowness(entry, found)
    if ratio is None:
        return word
    shown = f'{ratio:,.0f}' if ratio >= 10 else f'{ratio:.2g}'
    return f'{word}: {shown} of {entry.ratio:g} x {entry.against}'


def faults_found(results: Sequence[tuple[Entry, Found]]) -> list[Entry]:
    """Returns the entries that deserve a report: faults of XLA or JAX that still hold."""
    return [
        entry
        for entry, found in results
        if entry.kind == 'correctness'
        and entry.subject == 'lax'
        and entry.program
        and not entry.by_design
        and verdict(entry, found) == 'still so'
    ]


def program(entry: Entry) -> str:
    """Returns the program of a fault as it runs on its own, with the comparison at its end."""
    assert entry.program is not None
    source = inspect.getsource(entry.program)
    used = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)} | {'np'}
    lines = [
        f'os.environ[{name!r}] = {value!r}' for name, value in (entry.environment or {}).items()
    ]
    lines = ['import os', *lines] if lines else []
    lines += [line for name, line in faults.IMPORTS.items() if name in used]
    comparison = f'np.testing.assert_allclose(*{entry.program.__name__}())'
    return '\n'.join([*lines, '', source, comparison, ''])


def report(entry: Entry) -> str:
    """Returns a report of a fault. It runs the fault's program, for what happens."""
    text = program(entry)
    done = subprocess.run([sys.executable, '-c', text], capture_output=True, text=True)
    return reports.report(
        entry.claim,
        text,
        'the comparison in the last line holds; the second result is computed with NumPy',
        _happened(done),
        notes=entry.notes,
        related=[entry.address],
    )


def _happened(done: subprocess.CompletedProcess) -> str:
    """Returns how a process ended, with its message from the error on."""
    if done.returncode == 0:
        return 'nothing: the program ends without an error'
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [i for i, line in enumerate(lines) if re.match(r'[\w.]*Error\b|.*RET_CHECK', line)]
    shown = lines[errors[0] :][:12] if errors else lines[-12:]
    text = '\n'.join(line[:200] for line in shown)
    return f'{measure.ended(done.returncode)}\n\n```text\n{text}\n```'

"""Writes reports of faults that the maintainers of another library can use. Nothing is sent."""

import ast
import os
from collections.abc import Sequence

from cnn_jax.bench import machine
from cnn_jax.errors import UserError


def report(
    title: str,
    program: str,
    expected: str,
    got: str,
    *,
    notes: str = '',
    related: Sequence[str] = (),
    packages: Sequence[str] = ('jax', 'jaxlib', 'numpy'),
) -> str:
    """Returns a report of one fault as Markdown.

    Args:
        title: one line: what is wrong, and where.
        program: the smallest complete program that shows the fault, without this package.
        expected: what the program should print or return, and why.
        got: what it prints or returns.
        notes: what else is known, for example what makes the fault disappear.
        related: addresses of public threads about the same fault.
        packages: whose versions to state.

    Returns:
        Title, program, expected, got, notes, threads; then versions, processor, and the
        environment's flags that change what JAX does.

    Raises:
        UserError: the title has several lines, or the program is not valid Python or imports
            this package.
    """
    if '\n' in title.strip():
        raise UserError(f'title={title!r}: must be one line')
    _check(program)
    here = machine.describe()
    versions = ', '.join(f'{n} {v}' for n, v in machine.versions(packages).items() if v)
    where = f'Python {here["python"]}, {here["system"]}, {here["processor"]}, {here["cores"]} cores'
    fence = '```'
    parts = [
        f'# {title.strip()}',
        f'{fence}python\n{program.strip()}\n{fence}',
        f'**Expected**: {expected.strip()}',
        f'**Got**: {got.strip()}',
        notes.strip(),
        'Related: ' + ', '.join(related) if related else '',
        f'**Versions**: {versions}; {where}, on {here["platform"]}',
        f'**Flags**: {_flags() or "none"}',
    ]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _check(program: str) -> None:
    try:
        tree = ast.parse(program)
    except SyntaxError as error:
        raise UserError(f'program: not valid Python: {error}') from None
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
        if any(name.partition('.')[0] == 'cnn_jax' for name in names):
            raise UserError('program: imports cnn_jax; a report must run without it')


def _flags() -> str:
    """Returns the environment variables that change what JAX and XLA compute, as in a shell."""
    return ' '.join(
        f'{name}={value!r}'
        for name, value in sorted(os.environ.items())
        if name == 'XLA_FLAGS' or (name.startswith('JAX_') and name != 'JAX_PLATFORMS')
    )

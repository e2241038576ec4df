"""Checks one kernel, for example one of your own, on convolutions of every kind.

rows = check.kernel('mine')
print(check.summary(rows))
"""

from collections.abc import Sequence

from cnn_jax.bench.kernels import compare, report, suites
from cnn_jax.bench.kernels.compare import Measurement
from cnn_jax.bench.kernels.problem import parse
from cnn_jax.tables import aligned


def kernel(
    name: str,
    problems: Sequence[str] = suites.CHECKS,
    dtypes: Sequence[str] = ('float32', 'bfloat16'),
) -> list[Measurement]:
    """Compares a kernel with a float64 reference, on the forward pass and both gradients.

    Args:
        name: a registered kernel.
        problems: problem strings, see `cnn_jax.bench.kernels.problem`.
        dtypes: dtypes of operands and result.

    Returns:
        One measurement for each problem, dtype and pass: an error, with `right`, or the reason why
        the kernel refuses or failed. Nothing is timed.

    Raises:
        UserError: unknown kernel, or a problem that cannot be read.
    """
    parsed = [parse(problem) for problem in problems]
    compare.check_kernels(parsed, [name])
    return [
        row
        for problem in parsed
        for dtype in dtypes
        for direction in compare.passes(problem)
        for row in compare.measure(problem, direction, dtype, names=[name], rounds=0)
    ]


def summary(rows: Sequence[Measurement]) -> str:
    """Formats the rows of one kernel: a line per problem and dtype, with the error of each pass."""
    cells: dict[tuple[str, str], list[Measurement]] = {}
    for row in rows:
        cells.setdefault((row.problem, row.dtype), []).append(row)
    table = [['problem', 'dtype', *report.LABELS.values()]]
    table += [[*key, *map(_cell, some)] for key, some in cells.items()]
    reasons = [
        '; '.join(dict.fromkeys(r.reason for r in some if r.reason)) for some in cells.values()
    ]
    lines = zip(aligned(table, left=2).splitlines(), ['', *reasons], strict=True)
    return '\n'.join(f'{line}  {reason}'.rstrip() for line, reason in lines)


def _cell(row: Measurement) -> str:
    if row.error is None:
        return '-'
    return f'{row.error:.0e}' if row.right else f'WRONG {row.error:.0e}'

"""Prints the table of a sweep: python launch/sweep_table.py SWEEPDIR METRIC

Each line is one combination: the number of finished seeds, and the mean, sample standard deviation,
lowest and highest value of the metric. METRIC is a path in result.json, for example test.accuracy.
"""

import functools
import json
import pathlib
import statistics
import sys


def read(sweepdir: pathlib.Path, metric: str) -> dict[str, dict[str, float | None]]:
    """Returns combination -> seed -> value, with None for a run that is not finished."""
    values: dict[str, dict[str, float | None]] = {}
    for config in sorted(sweepdir.glob('*/seed*/config.json')):
        run = config.parent
        try:
            result = json.loads((run / 'result.json').read_text())
        except FileNotFoundError:
            value = None
        else:
            value = functools.reduce(lambda tree, key: tree[key], metric.split('.'), result)
        values.setdefault(run.parent.name, {})[run.name] = value
    return values


def table(values: dict[str, dict[str, float | None]], metric: str) -> str:
    """Formats the values as a Markdown table, with the highest mean first."""

    def line(name, seeds):
        done = [value for value in seeds.values() if value is not None]
        if not done:
            return f'| {name} | 0 of {len(seeds)} | | | | |'
        spread = f'{statistics.stdev(done):.4f}' if len(done) > 1 else ''
        return (
            f'| {name} | {len(done)} of {len(seeds)} | {statistics.mean(done):.4f} | {spread} '
            f'| {min(done):.4f} | {max(done):.4f} |'
        )

    def order(item):
        done = [value for value in item[1].values() if value is not None]
        return -statistics.mean(done) if done else float('inf')

    head = [f'| {metric} | seeds | mean | standard deviation | lowest | highest |']
    rule = ['| --- | --- | --: | --: | --: | --: |']
    return '\n'.join(head + rule + [line(*item) for item in sorted(values.items(), key=order)])


def main(argv: list[str]) -> int:
    sweepdir, metric = pathlib.Path(argv[1]), argv[2]
    try:
        print(table(read(sweepdir, metric), metric))
    except (KeyError, TypeError):
        print(f'error: --metric={metric} is not in the results of {sweepdir}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))

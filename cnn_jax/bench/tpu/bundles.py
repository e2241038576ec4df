"""Counts the instruction bundles of the TPU compiler's final schedules.

A chip issues one bundle of instructions per cycle. The compiler writes the schedule of each
operation to `*-NAME-NN-final_bundles.txt` if it is told to when it loads, so counting needs a
process of its own (`counted`). Bodies of loops count as often as they run; regions under a
condition count as if it were true, which adds the rounds that fill and drain a pipeline. Waiting
for memory is not in the schedule. Unlike the estimates of `cycles.py`, bundles exist for Pallas
kernels too; the two scales must not be mixed.
"""

import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cnn_jax.bench.process import run_python

_BUNDLE = re.compile(r'^ *(?:0x[0-9a-f]+|0) +((?:[A-Z]{2}\b ?)*): ([> ]*)\{')
_EXIT = re.compile(r'scmp\.\w+\.s32\.totalorder %\w+, (\d+) /\* loop exit test')
_FILE = re.compile(r'^\d+-(.+)-\d+-final_bundles\.txt$')


def count(text: str) -> int:
    """Returns how many bundles the schedule of one operation runs; unknown loops run once."""
    lines = [
        (len(match[2].replace(' ', '')), 'LB' in match[1], line)
        for line in text.splitlines()
        if (match := _BUNDLE.match(line))
    ]
    return _run(lines, 0)


def _run(lines: Sequence[tuple[int, bool, str]], depth: int) -> int:
    """Counts lines at loop depth `depth` and deeper."""
    total = place = 0
    while place < len(lines):
        if lines[place][0] <= depth:
            total, place = total + 1, place + 1
            continue
        end = place + 1
        while end < len(lines) and lines[end][0] > depth:
            if lines[end][0] == depth + 1 and lines[end][1]:  # the next loop begins
                break
            end += 1
        body = lines[place:end]
        tests = [n for d, _, line in body if d == depth + 1 for n in _EXIT.findall(line)]
        total += (int(tests[-1]) if tests else 1) * _run(body, depth + 1)
        place = end
    return total


def by_operation(folder: pathlib.Path) -> dict[str, int]:
    """Returns the bundles of each operation whose schedule is in `folder`, by name.

    Operations that share a schedule are listed in the compiler's map of duplicates.
    """
    found = {}
    for path in folder.iterdir():
        if match := _FILE.match(path.name):
            found[match[1]] = count(path.read_text())
    for path in folder.glob('*-deduplication-map.txt'):
        for key, names in _duplicates(path.read_text().splitlines()):
            found |= {name: found[key] for name in names if key in found}
    return found


def _duplicates(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    key, names = '', []
    for line in lines:
        if line.startswith('key:'):
            yield key, names
            key, names = line[4:], []
        elif line.startswith('  '):
            names.append(line.strip())
    yield key, names


def counted(tasks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compiles kernels in a new process whose compiler writes its schedules.

    Args:
        tasks: for each kernel the `chip`, `problem`, `dtype`, `direction` and `kernel`.

    Returns:
        For each, its `bundles`, or a `reason`.
    """
    if not tasks:
        return []
    folder = tempfile.mkdtemp(prefix='bundles')
    flags = f'--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true'
    own = os.environ.get('LIBTPU_INIT_ARGS', '')
    try:
        done = run_python(
            ['-m', 'cnn_jax.bench.tpu.bundles', folder],
            what='counting bundles',
            given=json.dumps(list(tasks)),
            environment={'LIBTPU_INIT_ARGS': f'{own} {flags}'.strip(), 'JAX_PLATFORMS': 'cpu'},
        )
    finally:
        shutil.rmtree(folder)
    return json.loads(done.splitlines()[-1])


def main() -> None:
    """Reads tasks from stdin and writes their bundles to stdout, one line of JSON each way."""
    from cnn_jax.bench.kernels.problem import parse
    from cnn_jax.bench.tpu import cycles, estimate
    from cnn_jax.errors import first_line

    folder, results = pathlib.Path(sys.argv[1]), []
    for task in json.load(sys.stdin):
        for path in folder.iterdir():
            path.unlink()
        try:
            compiled = estimate.compile_kernel(**task | {'problem': parse(task['problem'])})
            total = cycles.read(compiled.as_text(), by_operation(folder))
            results.append({'bundles': total.cycles})
        except Exception as error:  # reported as the result of this kernel
            results.append({'reason': first_line(error)})
    print(json.dumps(results))


if __name__ == '__main__':
    main()

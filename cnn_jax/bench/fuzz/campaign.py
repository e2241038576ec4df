"""A campaign: workers of several setups and environments, in turn."""

import collections
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cnn_jax.bench.fuzz.setups import Setup

HERE = pathlib.Path(__file__).resolve().parent
REDUCED = 3  # faults of one kind; others are only listed
CHUNK = 8192  # cases of one worker at most; a new process has no memory of old programs
TURN = 60.0  # seconds of a worker's turn


class Job(NamedTuple):
    python: str
    setup: Setup
    share: float


def run(
    jobs: list[Job],
    output: pathlib.Path,
    *,
    cases: int,
    seconds: float,
    seed: int = 0,
    say: Callable[[int, int], None] = lambda done, faults: None,
) -> dict[str, Any]:
    """Runs jobs in turn, each for its share of the time; writes faults.jsonl and counts.json.

    Args:
        jobs: what to run.
        output: folder of the results.
        cases: how many to check at least.
        seconds: when to stop, even if there were fewer.
        seed: number of the first case is seed * 10^9.
        say: is called with the number of cases and of faults so far.

    Returns:
        The contents of counts.json: for each job, its versions, counts and seconds.
    """
    output.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    spent = dict.fromkeys(range(len(jobs)), 0.0)
    following = dict.fromkeys(range(len(jobs)), seed * 10**9)
    counts: dict[int, collections.Counter] = collections.defaultdict(collections.Counter)
    versions: dict[int, list[str]] = {}
    kinds: collections.Counter = collections.Counter()
    total = faults = 0
    with open(output / 'faults.jsonl', 'a') as file:
        while total < cases and time.monotonic() - begun < seconds:
            index = min(spent, key=lambda i: spent[i] / jobs[i].share)
            job, start = jobs[index], time.monotonic()
            limit = min(TURN, seconds - (start - begun))
            done = 0
            known = [list(kind) for kind, n in kinds.items() if n >= REDUCED]
            for line in chunk(job, following[index], CHUNK, limit, known):
                versions.setdefault(index, line.get('version', []))
                if 'counts' in line:
                    counts[index].update(line['counts'])
                    done += sum(line['counts'].values())
                    total += sum(n for kind, n in line['counts'].items() if kind != 'refused')
                elif 'fault' in line or 'again' in line:
                    faults += 1
                    fault = line.get('fault', line)
                    kinds[tuple(fault['again'])] += 1
                    about = {'setup': job.setup.name, 'version': versions[index]}
                    file.write(json.dumps(fault | about) + '\n')
                    file.flush()
                say(total, faults)
            spent[index] += time.monotonic() - start
            following[index] += done
            rows = [
                {'setup': jobs[i].setup.name, 'version': versions.get(i), 'counts': counts[i],
                 'seconds': round(spent[i], 1), 'flags': jobs[i].setup.flags}
                for i in spent if i in versions
            ]  # fmt: skip
            summary = {'cases': total, 'faults': faults, 'jobs': rows}
            (output / 'counts.json').write_text(json.dumps(summary, indent=1) + '\n')
    return summary


def chunk(job: Job, first: int, count: int, seconds: float, known=()) -> Iterator[dict[str, Any]]:
    """Yields what workers say about `count` cases, also when one of the cases kills its worker."""
    end, batch, deadline = first + count, 64, time.monotonic() + seconds
    while first < end:
        begin = None
        with worker(job, first, end - first if batch > 1 else 64, batch, known) as process:
            for text in process.stdout:
                line = json.loads(text)
                yield line
                if 'begin' in line:
                    begin = line
                elif 'end' in line:
                    first = line['end'] + begin['count']
                    if time.monotonic() > deadline:
                        process.kill()
                        return
            code = process.wait()
        if code == 0:
            batch = 64
        elif begin is None:
            raise RuntimeError(f'{job.python} cannot run a worker: {job.setup.flags!r}')
        elif batch > 1:
            batch = 1  # one after the other, to see which it is
        else:
            message = f'the process ended with code {code}'
            yield {
                'fault': {'number': first, 'kind': 'crash', 'message': message, 'again': ['crash']}
            }
            yield {'counts': {'crash': 1}}
            first += 1


def worker(job: Job, first: int, count: int, batch: int, known) -> subprocess.Popen:
    options = [f'--first={first}', f'--count={count}', f'--batch={batch}']
    options += [f'--known={json.dumps(known)}']
    options += ['--narrow'] * job.setup.narrow + ['--sharded'] * job.setup.sharded
    return subprocess.Popen(
        [job.python, '-m', 'fuzz.worker', *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment(job),
    )  # fmt: skip


def environment(job: Job) -> dict[str, str]:
    own = {'XLA_FLAGS': job.setup.flags, 'PYTHONPATH': str(HERE.parent), 'JAX_PLATFORMS': 'cpu'}
    return os.environ | own

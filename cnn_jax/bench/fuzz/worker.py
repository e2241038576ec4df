"""Checks cases in this process, and prints what it finds as lines of JSON.

Started as `python -m fuzz.worker` with the folder above this one on the path, so that it needs only
JAX and NumPy, of any version. A line is one of

    {"version": ...}                       the versions of jax and jaxlib, once
    {"begin": number, "count": n}          before a program of n cases is compiled
    {"end": number, "counts": {...}, "at": seconds}
    {"fault": {...}}                       a case that differs, and the case that it was reduced to
"""

import argparse
import collections
import json
import os
import random
import sys
import time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--first', type=int, default=0, help='number of the first case')
    parser.add_argument('--count', type=int, default=1000, help='how many cases')
    parser.add_argument('--batch', type=int, default=64, help='cases in one program')
    parser.add_argument('--narrow', action='store_true', help='without 64-bit dtypes')
    parser.add_argument('--sharded', action='store_true', help='over 4 virtual devices')
    parser.add_argument('--shrinks', type=int, default=2, help='cases to reduce, of each kind')
    parser.add_argument('--known', default='[]', help='kinds of faults not to reduce, as JSON')
    parser.add_argument('--case', help='check one case, given as JSON, and print its program')
    arguments = parser.parse_args()
    import jax

    jax.config.update('jax_enable_x64', not arguments.narrow)
    jax.config.update('jax_enable_compilation_cache', False)
    if arguments.case:
        return one(json.loads(arguments.case))
    say({'version': [jax.__version__, jax.lib.__version__]})
    many(arguments)
    return 0


def say(line: dict) -> None:
    print(json.dumps(line), flush=True)


def one(case: dict) -> int:
    from . import check

    (verdict,) = check.verdicts([case])
    say({'kind': verdict.kind, 'message': verdict.message, 'program': check.text(case)})
    return 0 if verdict.kind in ('right', 'refused') else 1


def many(arguments: argparse.Namespace) -> None:
    from . import cases, check

    seen = collections.Counter({tuple(k): arguments.shrinks for k in json.loads(arguments.known)})
    begun = time.monotonic()
    for first in range(arguments.first, arguments.first + arguments.count, arguments.batch):
        numbers = range(first, min(first + arguments.batch, arguments.first + arguments.count))
        say({'begin': first, 'count': len(numbers)})
        some = [
            cases.draw(random.Random(n), not arguments.narrow, arguments.sharded) for n in numbers
        ]
        counts: collections.Counter = collections.Counter()
        for number, case, verdict in zip(numbers, some, check.verdicts(some), strict=True):
            counts[verdict.kind] += 1
            if verdict.kind in ('wrong', 'error'):
                key = kind(case, verdict)
                seen[key] += 1
                if seen[key] <= arguments.shrinks:
                    report(number, case, verdict, key)
                else:
                    say({'again': list(key), 'number': number})
            elif verdict.kind == 'refused':
                say({'refused': verdict.message, 'number': number})
        say({'end': first, 'counts': counts, 'at': round(time.monotonic() - begun, 2)})


def kind(case: dict, verdict) -> tuple:
    """Returns what faults of one cause probably have in common."""
    return (
        verdict.kind, case['op'], case['dtype'], case['derivative'],
        case['spec'].get('reducer', ''), any(o['words'] for o in case['operands']),
        verdict.message[:60] if verdict.kind == 'error' else '',
    )  # fmt: skip


def report(number: int, case: dict, verdict, key: tuple) -> None:
    from .shrink import shrink

    small = case
    if not verdict.company:
        small, verdict = shrink(case, verdict)
    fault = {
        'number': number, 'kind': verdict.kind, 'message': verdict.message,
        'company': verdict.company, 'again': key, 'case': small, 'drawn': case,
        'flags': os.environ.get('XLA_FLAGS', ''),
    }  # fmt: skip
    say({'fault': fault})


if __name__ == '__main__':
    sys.exit(main())

"""The same fuzzer on the operations of this package: their arguments, kernels and transforms."""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

import cnn_jax

from . import cases, check, conv, dtypes, our_conv, our_patches, our_pools, our_transposed
from .cases import Case
from .programs import program

WEIGHTS = {'our_conv': 5, 'our_transposed': 3, 'our_pools': 5, 'our_patches': 2, 'conv': 3}
DTYPES = ('float32', 'float32', 'float32', 'bfloat16', 'float16')

cases.OPERATIONS |= {
    'our_conv': our_conv, 'our_transposed': our_transposed, 'our_pools': our_pools,
    'our_patches': our_patches,
}  # fmt: skip


def draw(r: random.Random) -> Case:
    """Returns a case of one of our operations; 'conv' is `cnn_jax.conv_general_dilated`."""
    op = r.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
    spec = cases.OPERATIONS[op].draw(r)
    case = {
        'op': op, 'spec': spec, 'dtype': r.choice(DTYPES), 'out': None,
        'values': r.choice(('normal', 'normal', 'integers')),
        'derivative': r.choices(cases.DERIVATIVES, (2, 5, 1, 2))[0],
        'loop': r.choices(cases.LOOPS, (6, 3, 1, 1))[0], 'derivative_first': r.random() < 0.7,
        'length': r.randint(1, 3), 'post': 'none', 'data': r.randrange(2**32), 'strict': True,
    }  # fmt: skip
    if op == 'conv':
        spec['implementation'] = r.choice(our_conv.KERNELS)
    if op in ('conv', 'our_conv', 'our_transposed') and r.random() < 0.1:
        case |= {'dtype': 'int8', 'out': 'int32', 'derivative': 'value'}
    if spec.get('kind') == 'indices':
        case['dtype'] = 'float32'  # holds the indices exactly
    if op == 'our_conv' and spec['bias'] and case['derivative'] == 'jvp':
        case['derivative'] = 'vjp'
    if spec.get('kind') in ('max', 'adaptive_max') and case['dtype'] == 'float16':
        case['values'] = 'integers'  # with ties
    cases.draw_operands(r, case, views_too=False)
    return case


def build(case: Case) -> Callable[..., Any]:
    """Returns the program of a case, with our operations."""
    if case['op'] != 'conv':
        return program(case)
    spec = case['spec']
    out = dtypes.numpy_dtype(case['out']) if case['out'] else None
    name = spec['implementation']

    def apply(x, w):
        return cnn_jax.conv_general_dilated(
            x, w, **conv.arguments(spec), preferred_element_type=out,
            implementation=(name, 'lax') if name else None,
        )  # fmt: skip

    return program(case, apply)


def search(first: int, count: int, seconds: float, batch: int = 16) -> Iterator[dict[str, Any]]:
    """Checks cases `first` and following; yields a line for each batch and each fault.

    A valid case that is refused is a fault too.
    """
    end = time.monotonic() + seconds
    for number in range(first, first + count, batch):
        some = [draw(random.Random(n)) for n in range(number, min(number + batch, first + count))]
        for i, verdict in enumerate(check.verdicts(some, build)):
            if verdict.kind != 'right':
                yield {'fault': {'number': number + i, 'case': some[i], **verdict._asdict()}}
        yield {'end': number, 'counts': {'checked': len(some)}}
        if time.monotonic() > end:
            return


def main() -> int:
    """Prints the first fault and returns 1, or prints how many cases were right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seconds', type=float, default=300)
    parser.add_argument('--first', type=int, default=0)
    arguments = parser.parse_args()
    jax.config.update('jax_disable_most_optimizations', True)  # compiling takes most of the time
    checked = 0
    for line in search(arguments.first, 10**9, arguments.seconds):
        if 'fault' in line:
            print(json.dumps(line['fault']))
            return 1
        checked += line['counts']['checked']
    print(f'{checked} cases are right')
    return 0


if __name__ == '__main__':
    sys.exit(main())

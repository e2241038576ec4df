"""Divides the wall time of a step among kinds of work, from the spans that a profiler recorded.

Imports the standard library alone, because `torch_side` loads neither JAX nor this package.
"""

import collections
from collections.abc import Iterable
from typing import NamedTuple

FORWARD = 'convolution, forward'
INPUT_GRAD = 'convolution, input gradient'
FILTER_GRAD = 'convolution, filter gradient'
MATMUL = 'matrix products'
NORM = 'normalisation'
ELEMENTWISE = 'bias, activation, sums'
POOL = 'pools'
EMBEDDING = 'embedding'
MOVES = 'copies, layouts, casts'
OPTIMIZER = 'optimiser'
REST = 'loss and rest'
IDLE = 'no operation runs'
CONVOLUTIONS = (FORWARD, INPUT_GRAD, FILTER_GRAD)
KINDS = (
    *CONVOLUTIONS, MATMUL, NORM, ELEMENTWISE, POOL, EMBEDDING, MOVES, OPTIMIZER, REST, IDLE,
)  # fmt: skip


class Span(NamedTuple):
    """An interval in which a thread did one thing.

    Spans of a thread are nested or disjoint.

    Attributes:
        thread: which thread; any hashable value.
        start, end: times in one unit.
        kind: kind of work; None for a thread that waits or is busy with overhead.
    """

    thread: int
    start: float
    end: float
    kind: str | None


def divide(spans: Iterable[Span], start: float, end: float) -> dict[str, float]:
    """Divides the time from `start` to `end` among the kinds of the spans.

    The innermost span says what its thread is doing. Time in which several threads work is divided
    equally among them, so a kind that keeps one of two busy threads gets half of it. Time in which
    no thread works is `IDLE`. The values therefore sum to `end - start`.

    Returns:
        For every kind that occurs, and for `IDLE`, its time.
    """
    edges = []
    for place, span in enumerate(spans):
        first, last = max(span.start, start), min(span.end, end)
        if first < last:
            # At one instant, spans end before others start; the outer one starts first.
            edges += [(first, 1, -last, place, span), (last, 0, -first, place, span)]
    found: dict[str, float] = collections.defaultdict(float)
    stacks: dict[int, list[Span]] = collections.defaultdict(list)
    before = start
    for time, is_start, _, _, span in sorted(edges, key=lambda edge: edge[:4]):
        innermost = [stack[-1].kind for stack in stacks.values() if stack]
        working = [kind for kind in innermost if kind is not None]
        for kind in working:
            found[kind] += (time - before) / len(working)
        before = time
        if is_start:
            stacks[span.thread].append(span)
        else:
            stacks[span.thread].remove(span)
    return {**found, IDLE: end - start - sum(found.values())}

"""Traces training steps with JAX's profiler, and divides their time among kinds of work.

XLA:CPU records every thunk (an instruction of the compiled module) in the thread that runs it. A
thunk may continue as tasks of the thread pool after its own event has ended. Every task records
where it was submitted, which says to which instruction it belongs.
"""

import math
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from cnn_jax.bench.steps import hlo
from cnn_jax.bench.steps.timeline import Span, divide

STEP = 'training step'
_SUBMIT, _BEGIN, _END = (
    f'ThreadpoolListener::{n}' for n in ('Record', 'StartRegion', 'StopRegion')
)


def trace(step: Callable[[], Any], count: int, text: str) -> list[dict[str, float]]:
    """Runs `count` steps under the profiler, and returns the seconds of every kind in each.

    Args:
        step: runs one step and waits for its result.
        text: the compiled module of the step.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(count):
                with jax.profiler.TraceAnnotation(STEP):
                    step()
        (file,) = pathlib.Path(folder).rglob('*.xplane.pb')
        profile = jax.profiler.ProfileData.from_file(str(file))
    threads = [line for plane in profile.planes for line in plane.lines]
    events = [(thread, event) for thread, line in enumerate(threads) for event in line.events]
    events.sort(key=lambda each: (each[1].start_ns, -each[1].duration_ns))
    spans = list(_spans(events, hlo.kinds(text)))
    return [
        {kind: ns / 1e9 for kind, ns in divide(spans, *_interval(event)).items()}
        for _, event in events
        if event.name == STEP
    ]


def _interval(event: Any) -> tuple[float, float]:
    return event.start_ns, event.start_ns + event.duration_ns


def _spans(events: Sequence[tuple[int, Any]], kinds: Mapping[str, str]) -> Iterator[Span]:
    """Yields the spans of thunks, executors and tasks from events in the order of their starts."""
    stacks: dict[int, list[Span]] = {thread: [] for thread, _ in events}
    submitted: dict[int, str | None] = {}
    for thread, event in events:
        start, end = _interval(event)
        stack = stacks[thread]
        while stack and stack[-1].end <= start:
            stack.pop()
        stats = dict(event.stats)
        if event.name == _SUBMIT:
            submitted[stats['_p']] = stack[-1].kind if stack else None
        elif event.name == _BEGIN:
            stack.append(Span(thread, start, math.inf, submitted.get(stats['_c'])))
        elif event.name == _END:
            if stack:
                yield stack.pop()._replace(end=start)
        elif event.name == stats.get('hlo_op') or event.name.startswith('ThunkExecutor'):
            stack.append(Span(thread, start, end, kinds.get(event.name)))
            yield stack[-1]

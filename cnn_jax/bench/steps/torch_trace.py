"""Traces training steps with PyTorch's profiler, and divides their time among kinds of work.

The profiler records operators in the thread that calls them; threads of OpenMP work inside them. An
operator has the kind of the first pattern below that it or an operator around it matches.

`aten::convolution_backward` computes both gradients. oneDNN's own timer (`ONEDNN_VERBOSE`) tells
them apart: in one more step it prints the milliseconds of every primitive, and the operator's time
is divided in the ratio of their sums. In PyTorch, a convolution adds its bias and computes the
gradient of the bias itself.

Loads neither JAX nor this package, as `torch_side` requires.
"""

import contextlib
import os
import pathlib
import re
import sys
import tempfile

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import timeline  # noqa: E402
from timeline import Span, divide  # noqa: E402

STEP = 'training step'
GRADIENTS = 'convolution, both gradients'
PATTERNS = [
    (r'Optimizer\.', timeline.OPTIMIZER),
    (r'aten::(copy_|clone|contiguous|cat)$', timeline.MOVES),
    (r'aten::convolution_backward', GRADIENTS),
    (r'aten::(conv|mkldnn_conv)', timeline.FORWARD),
    (r'batch_norm', timeline.NORM),
    (r'pool|aten::amax|aten::mean|AmaxBackward|MeanBackward', timeline.POOL),
    (r'aten::embedding', timeline.EMBEDDING),
    (r'aten::(linear|addmm|mm)\b', timeline.MATMUL),
    (r'cross_entropy|nll_loss|log_softmax|mse_loss', timeline.REST),
    (r'aten::(add_?|relu|clamp_min|threshold_backward|sum)\b', timeline.ELEMENTWISE),
    (r'aten::', timeline.REST),
]
PATTERNS = [(re.compile(pattern), kind) for pattern, kind in PATTERNS]
_PRIMITIVE = re.compile(r'exec,cpu,(?:de)?convolution,[^,]*,backward_(data|weights),.*,([\d.e+-]+)')


def trace(step, count):
    """Runs `count` steps under the profiler, and returns the seconds of every kind in each.

    Raises:
        RuntimeError: PyTorch computed gradients of convolutions without oneDNN.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(count):
            with torch.profiler.record_function(STEP):
                step()
    events = profiler.events()
    spans = [
        Span(event.thread, event.time_range.start, event.time_range.end, kind_of(_path(event)))
        for event in events
    ]
    steps = [event.time_range for event in events if event.name == STEP]
    divided = [divide(spans, interval.start, interval.end) for interval in steps]
    has_convolutions = any(GRADIENTS in parts for parts in divided)
    share = _share_of_input_gradients(step) if has_convolutions else 0.0
    found = []
    for parts in divided:
        both = parts.pop(GRADIENTS, 0.0)
        parts |= {timeline.INPUT_GRAD: share * both, timeline.FILTER_GRAD: (1 - share) * both}
        found.append({kind: us / 1e6 for kind, us in parts.items()})
    return found


def kind_of(path):
    """Returns the kind of the innermost of nested operators, or None for overhead.

    Args:
        path: names from the outermost operator to the innermost.
    """
    for pattern, kind in PATTERNS:
        if any(pattern.search(name) for name in path):
            return kind
    return None


def _path(event):
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names[::-1]


def _share_of_input_gradients(step):
    """Returns the part of the convolutions' gradients that oneDNN spends on those of inputs."""
    with tempfile.TemporaryFile('w+') as file:
        with _redirected_output(file), torch.backends.mkldnn.verbose(1):
            step()
        file.seek(0)
        found = _PRIMITIVE.findall(file.read())
    if not found:
        raise RuntimeError('oneDNN timed no gradients of convolutions; other code computed them')
    data, weights = (
        sum(float(ms) for name, ms in found if name == which) for which in ('data', 'weights')
    )
    return data / (data + weights)


@contextlib.contextmanager
def _redirected_output(file):
    """Sends what the process writes to its standard output to a file; oneDNN is not Python."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(file.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)

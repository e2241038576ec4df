"""Runs the parts of a report within a budget of time and collects what they find.

This process never uses the device: a TPU belongs to one process at a time, and JAX's allocator
takes most of the memory of a GPU.
"""

import dataclasses
import importlib.util
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from cnn_jax.bench.process import stream_python
from cnn_jax.bench.steps import compare as steps
from cnn_jax.bench.steps import registered
from cnn_jax.errors import UserError, first_line

VERSION = 1

# The share of the budget that each part may use; what a part leaves, the next ones may use.
SHARES = {'machine': 0.08, 'checks': 0.15, 'kernels': 0.25, 'training': 0.42, 'input': 0.10}
NETWORKS = ('resnet50', 'vgg16', 'resnet18', 'mobilenet_v2', 'convnext_tiny', 'airbench')
SIDES = ('native', 'torch.compile')
SMALLEST_BATCH = 8
LEAST_SECONDS = 5.0  # nothing starts with less time left
MOST_OF_REST = 4.0  # a network may take this many times its equal share of the time left


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a report measures. Sequences may be lists, so that JSON can hold it.

    Attributes:
        small: few and tiny measurements, to try the program.
        minutes: the budget.
        parts: keys of `SHARES`; the machine is always described.
        networks: registered models, to train.
        suite: problems for the kernels, as in compare_kernels.py: a name or a file.
        dtypes: of the kernels.
        train_dtype: of the layers in training.
        batch_size, image_size: of training; airbench has 8 times as many images, of 32 pixels.
        pytorch: whether to time the same networks in PyTorch.
    """

    small: bool = False
    minutes: float = 10.0
    parts: Sequence[str] = tuple(SHARES)
    networks: Sequence[str] = NETWORKS
    suite: str = 'accelerator'
    dtypes: Sequence[str] = ('bfloat16',)
    train_dtype: str = 'bfloat16'
    batch_size: int = 128
    image_size: int = 224
    pytorch: bool = True


class Progress(Protocol):
    """Shows how far the report is."""

    def expect(self, count: int) -> None: ...

    def done(self, text: str) -> None: ...


class Budget:
    """Deadlines of the parts. `clock` returns seconds."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic):
        self._clock, self._start, self._seconds = clock, clock(), 60 * minutes

    def elapsed(self) -> float:
        return self._clock() - self._start

    def left(self, part: str) -> float:
        """Returns the seconds that a part may still use."""
        shares = list(SHARES.values())[: list(SHARES).index(part) + 1]
        return self._seconds * sum(shares) - self.elapsed()


def run(
    settings: Settings, progress: Progress, macs: Callable[[Any], int]
) -> Iterator[dict[str, Any]]:
    """Runs the parts in order, and yields the report after each one.

    `macs` counts the multiply-accumulates of an abstract model for one example.

    The report has `version`, `date`, `settings`, `machine`, and `parts`: for each part its `status`
    ('complete', 'out of time', 'failed' or 'skipped'), a `reason`, `seconds`, and its `rows`, also
    those measured before a part ended early.
    """
    budget = Budget(settings.minutes)
    report: dict[str, Any] = {
        'version': VERSION,
        'date': time.strftime('%Y-%m-%d'),
        'settings': dataclasses.asdict(settings),
        'machine': {},
        'parts': {},
    }
    for part in SHARES:
        begun = budget.elapsed()
        rows: list[dict[str, Any]] = []
        if part != 'machine' and part not in settings.parts:
            status, reason = 'skipped', 'not asked for'
        elif budget.left(part) < LEAST_SECONDS:
            status, reason = 'out of time', 'nothing was measured'
        elif part == 'training':
            status, reason = _training(settings, report['machine'], budget, rows, progress, macs)
        else:
            status, reason = _part(part, settings, budget.left(part), rows, progress)
        if part == 'machine':
            report['machine'] = {key: value for row in rows for key, value in row.items()}
            rows = []
        seconds = round(budget.elapsed() - begun, 1)
        report['parts'][part] = {
            **{'status': status, 'reason': reason, 'seconds': seconds},
            'rows': rows,
        }
        yield report


def _part(
    part: str, settings: Settings, timeout: float, rows: list[dict], progress: Progress
) -> tuple[str, str]:
    """Runs a part of `parts` in a process and adds what it finds to `rows`."""
    command = ['-m', 'cnn_jax.bench.accelerator.parts']
    task = json.dumps({'part': part, 'settings': dataclasses.asdict(settings)})
    done, total = 0, 0
    try:
        for line in stream_python(command, what=part, given=task, timeout=timeout):
            found = json.loads(line)
            if 'total' in found:
                total = found['total']
                progress.expect(total)
                continue
            done += 1
            rows += found.get('rows', [found])
            progress.done(part)
    except subprocess.TimeoutExpired:
        if done < max(total, 1):
            return 'out of time', f'{done} of {total or "?"} measurements in {timeout:.0f} s'
    except (RuntimeError, UserError) as error:
        return 'failed', first_line(error)
    return 'complete', ''


def _training(
    settings: Settings,
    machine: dict,
    budget: Budget,
    rows: list[dict],
    progress: Progress,
    macs: Callable[[Any], int],
) -> tuple[str, str]:
    """Times training steps of every network on both sides, and adds a row for each to `rows`."""
    device, missing = _torch_device(settings, machine)
    progress.expect(len(settings.networks) * len(SIDES))
    started = 0
    for side in SIDES:  # ours first: what runs out of time is the comparison
        for name in settings.networks:
            row: dict[str, Any] = {'network': name, 'side': side, 'dtype': settings.train_dtype}
            if side != 'native' and missing:
                row['reason'] = missing
            else:
                batch = next((r['batch_size'] for r in rows if _is_timed(r, name)), 0)
                remaining = len(settings.networks) * (1 if missing else len(SIDES)) - started
                started += 1
                left = budget.left('training')
                until = budget.elapsed() + left * min(1, MOST_OF_REST / remaining)
                timed, model = _train(name, side, batch, device, settings, budget, until)
                row |= timed | ({'macs': macs(model)} if model else {})
            rows.append(row)
            progress.done(f'{name} {side}')
    late = sum(row.get('reason') == 'out of time' for row in rows)
    return ('out of time', f'{late} of {len(rows)} networks') if late else ('complete', '')


def _is_timed(row: dict[str, Any], name: str) -> bool:
    return row['network'] == name and 'step_s' in row


def _torch_device(settings: Settings, machine: dict[str, Any]) -> tuple[str, str]:
    """Returns PyTorch's device, and why it cannot be timed, or ''."""
    platform = machine.get('platform', 'unknown')
    if not settings.pytorch:
        return 'cpu', 'not asked for'
    if platform not in ('cpu', 'gpu'):
        return 'cpu', f'PyTorch is not timed on the platform {platform}'
    if importlib.util.find_spec('torch') is None:
        return 'cpu', 'PyTorch is not installed'
    return ('cuda' if platform == 'gpu' else 'cpu'), ''


def _train(
    name: str,
    side: str,
    batch_size: int,
    device: str,
    settings: Settings,
    budget: Budget,
    until: float,
) -> tuple[dict[str, Any], Any]:
    """Returns a time and the model, or a reason and None, before `until` seconds of the budget.

    Halves the batch while it does not fit into memory.
    """
    if until - budget.elapsed() < LEAST_SECONDS:  # to describe a network takes seconds
        return {'reason': 'out of time'}, None
    try:
        case, batch = _case(name, batch_size, settings)
        while True:
            if (left := until - budget.elapsed()) < LEAST_SECONDS:
                return {'reason': 'out of time'}, None
            try:
                seconds = 0.05 if settings.small else 3.0
                found = steps.run(
                    case.network, settings.train_dtype, side, seconds, device=device, timeout=left
                )
                break
            except RuntimeError as error:
                # The other side has the same batch, or none.
                if batch_size or batch <= SMALLEST_BATCH or not _is_memory(str(error)):
                    raise
                batch //= 2
                case = registered.Case(_resized(case.network, batch), case.model)
    except subprocess.TimeoutExpired:
        return {'reason': 'out of time'}, None
    except (RuntimeError, UserError) as error:
        return {'reason': first_line(error)}, None
    timed = {
        'batch_size': batch,
        'image_size': case.network.inputs[1],
        'step_s': statistics.median(found['step_s']),
        'steps': len(found['step_s']),
        **{key: found[key] for key in ('compile_s', 'parameters', 'device_bytes')},
        'process_bytes': found['memory_bytes'],
    }
    return timed, case.model


def _case(name: str, batch: int, settings: Settings) -> tuple[registered.Case, int]:
    """Describes a network for a batch, or for the default one if it is 0."""
    size, classes = settings.image_size, 0
    default = settings.batch_size
    if name == 'airbench':
        size, classes, default = 32, 10, 8 * default
    batch = batch or default
    case = registered.case(name, batch_size=batch, image_size=size, num_classes=classes)
    return case, batch


def _resized(network: Any, batch: int) -> Any:
    return network._replace(inputs=(batch, *network.inputs[1:]))


def _is_memory(message: str) -> bool:
    return 'RESOURCE_EXHAUSTED' in message or 'out of memory' in message.lower()

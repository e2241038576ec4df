"""Runs the sides in turns, each in a separate process, and compares their times."""

import json
import pathlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from cnn_jax.bench.process import run_python
from cnn_jax.bench.steps.networks import Network
from cnn_jax.errors import UserError
from cnn_jax.ops.kernels.native.build import SWITCH
from cnn_jax.tables import aligned
from cnn_jax.viz.figures import new_figure, save

# The library of each side, and additional environment variables for its process.
SIDES: dict[str, tuple[str, dict[str, str]]] = {
    'native': ('cnn_jax', {}),
    'pure': ('cnn_jax', {SWITCH: '0'}),
    'flax': ('flax', {}),
    'installed': ('installed', {}),
    'torch': ('torch', {}),
    'torch.compile': ('torch.compile', {}),
}
# The colour and the name of each side in a figure.
STYLE = {
    'native': ('tab:blue', 'cnn_jax, native'),
    'pure': ('tab:cyan', 'cnn_jax, pure JAX'),
    'flax': ('tab:gray', 'Flax'),
    'installed': ('tab:green', 'Flax, installed'),
    'torch': ('tab:orange', 'PyTorch'),
    'torch.compile': ('tab:red', 'PyTorch, compiled'),
}
DTYPES = ('float32', 'bfloat16')

# Largest relative difference of the first loss that rounding through tens of layers can explain.
# The JAX sides start from the same weights and use the same batch. Training amplifies the
# difference in later losses.
LOSS_TOLERANCE = {'float32': 1e-5, 'bfloat16': 3e-2}

Key = tuple[str, str, str]  # title of a network, dtype, side


def run(
    network: Network,
    dtype: str,
    side: str,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    *,
    device: str = 'cpu',
    timeout: float | None = None,
    traced_steps: int = 0,
) -> dict[str, Any]:
    """Runs one side in a separate process and returns its result, as described in `jax_side`.

    Args:
        device: PyTorch's device; JAX uses its default device.
        timeout: seconds after which the process is killed.
        traced_steps: number of additional steps under the library's profiler.

    Raises:
        ImportError: PyTorch is not installed.
        RuntimeError: the process failed; the message has its last line.
        subprocess.TimeoutExpired: the process took longer than `timeout`.
    """
    library, own = SIDES[side]
    task = {'dtype': dtype, 'library': library, 'seconds': seconds}
    task |= {'network': network._asdict(), 'device': device, 'traced_steps': traced_steps}
    here = pathlib.Path(__file__).parent
    if library.startswith('torch'):
        command = ['-P', str(here / 'torch_side.py')]
    else:
        command = ['-m', 'cnn_jax.bench.steps.jax_side']
    printed = run_python(
        command,
        what=f'{network.title} {dtype} {side}',
        given=json.dumps(task),
        environment={**(environment or {}), **own},
        timeout=timeout,
    )
    return json.loads(printed)


def rounds(
    networks: Sequence[Network],
    dtypes: Sequence[str],
    sides: Sequence[str],
    count: int,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    traced_steps: int = 0,
) -> Iterator[tuple[Key, dict[str, Any]]]:
    """Runs all sides of a network in turns, `count` times, then continues with the next network.

    Args:
        networks, dtypes, sides: what is timed; sides are keys of `SIDES`.
        count: number of processes per side.
        seconds: seconds of steps in each process.
        environment: additional environment variables for every process.
        traced_steps: see `run`.

    Raises:
        ValueError: a dtype or side is unknown; raised before anything is timed.
    """
    for values, what, known in ((dtypes, 'dtype', DTYPES), (sides, 'side', SIDES)):
        for value in values:
            if value not in known:
                raise UserError(f'unknown {what} {value!r}; must be one of {", ".join(known)}')
    for network in networks:
        for dtype in dtypes:
            for _ in range(count):
                for side in sides:
                    result = run(
                        network, dtype, side, seconds, environment, traced_steps=traced_steps
                    )
                    yield (network.title, dtype, side), result


def gather(
    first: tuple[Key, dict[str, Any]], others: Iterator[tuple[Key, dict[str, Any]]], total: int
) -> list[tuple[Key, dict[str, Any]]]:
    """Returns all of `rounds`, of which `first` has been taken, and shows the progress."""
    results = [first]
    with tqdm(total=total, initial=1, disable=None) as bar:
        for key, result in others:
            results.append((key, result))
            bar.set_description(' '.join(key))
            bar.update()
    return results


def summary(results: Sequence[tuple[Key, Mapping[str, Any]]]) -> dict[Key, dict[str, float]]:
    """Returns, per side, the median over processes of the median step, and the spread of medians.

    Raises:
        ValueError: two sides of a network differ in their number of parameters, or two JAX sides
            differ in their first loss.
    """
    found: dict[Key, list[Mapping[str, Any]]] = {}
    for key, result in results:
        found.setdefault(key, []).append(result)
    _check(found)
    sums = {}
    for key, some in found.items():
        medians = [statistics.median(result['step_s']) for result in some]
        sums[key] = {
            'step_ms': 1e3 * statistics.median(medians),
            'spread_ms': 1e3 * (max(medians) - min(medians)),
            'least_ms': 1e3 * min(medians),
            'most_ms': 1e3 * max(medians),
            'first_s': statistics.median(result['compile_s'] for result in some),
            'memory_mb': max(result['memory_bytes'] for result in some) / 1e6,
        }
    return sums


def _check(found):
    first: dict[str, tuple[Key, int]] = {}
    losses: dict[tuple[str, str], tuple[Key, float]] = {}
    for key, some in found.items():
        name, dtype, side = key
        size = some[0]['parameters']
        other, expected = first.setdefault(name, (key, size))
        if size != expected:
            raise UserError(f'{key} has {size} parameters, but {other} has {expected}')
        if side.startswith('torch'):
            continue
        loss = some[0]['losses'][0]
        other, wanted = losses.setdefault((name, dtype), (key, loss))
        if not abs(loss - wanted) <= LOSS_TOLERANCE[dtype] * abs(wanted):
            raise UserError(f'{key} and {other} differ in their first loss: {loss}, {wanted}')


def table(sums: Mapping[Key, Mapping[str, float]]) -> str:
    """Formats milliseconds per step and their spread, and the ratio of each time to ours."""
    heads = ('network', 'dtype', 'side', 'ms', '± ms', 'first s', 'MB', 'x native', 'x pure')
    rows = [heads]
    for (name, dtype, side), values in sums.items():
        numbers = [f'{values[key]:.1f}' for key in ('step_ms', 'spread_ms', 'first_s')]
        rows.append(
            (
                *(name, dtype, side),
                *(*numbers, f'{values["memory_mb"]:.0f}'),
                *(_ratio(values, side, sums, (name, dtype, ours)) for ours in ('native', 'pure')),
            )
        )
    return aligned(rows, left=3)


def _ratio(values: Mapping[str, float], side: str, sums: Mapping[Key, Any], ours: Key) -> str:
    if ours not in sums or ours[2] == side:
        return '-'
    return f'{values["step_ms"] / sums[ours]["step_ms"]:.2f}x'


def bars(sums: Mapping[Key, Mapping[str, float]], path=None, *, title: str = '') -> Figure:
    """Plots speed-ups from zero, with one group per network and one panel per dtype.

    They are relative to PyTorch if it was measured, else to the last side that was. The lines span
    the processes.
    """
    dtypes = list(dict.fromkeys(dtype for _, dtype, _ in sums))
    sides = [side for side in SIDES if any(key[2] == side for key in sums)]
    base = 'torch' if 'torch' in sides else sides[-1]
    figure = new_figure(9, 3.2 * len(dtypes))
    panels = figure.subplots(len(dtypes), 1, squeeze=False)[:, 0]
    for panel, dtype in zip(panels, dtypes, strict=True):
        names = list(dict.fromkeys(name for name, d, _ in sums if d == dtype))
        for place, side in enumerate(sides):
            shift = (place - (len(sides) - 1) / 2) * 0.8 / len(sides)
            groups = [i for i, name in enumerate(names) if (name, dtype, side) in sums]
            times = [sums[names[i], dtype, side] for i in groups]
            bases = [sums[names[i], dtype, base]['step_ms'] for i in groups]
            height, low, high = (
                [b / t[key] for b, t in zip(bases, times, strict=True)]
                for key in ('step_ms', 'most_ms', 'least_ms')
            )
            colour, label = STYLE[side]
            where = [i + shift for i in groups]
            panel.bar(where, height, 0.8 / len(sides), color=colour, label=label)
            panel.vlines(where, low, high, color='black', linewidth=0.8)
        titles = [name.replace(', ', ',\n') for name in names]
        panel.set_xticks(range(len(names)), titles, fontsize=8)
        panel.axhline(1, color='black', linewidth=0.6)
        panel.set_ylabel(f'speed-up over {STYLE[base][1]}')
        panel.set_title(dtype, fontsize=9)
        panel.grid(axis='y', alpha=0.3)
    panels[0].legend(fontsize=7, ncols=len(SIDES), loc='upper left')
    if title:
        figure.suptitle(title, fontsize=9)
    return save(figure, path)

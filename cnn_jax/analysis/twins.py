"""The same network in JAX and in PyTorch: prepares the task, runs both sides, compares.

A task is a folder: task.json (what to do), data.npz (train_inputs, train_labels, test_inputs,
test_labels as the network takes them; order (seeds, steps, batch): rows of each batch) and
weights_<seed>.npz (initial parameters by name, float32). Each side writes <side>.npz: for float32
and float64 the logits and gradients of the first batch, the losses, and the parameters after some
steps; then for each seed losses, seconds a step and the result on the test examples; and its peak
memory.

Both sides train with SGD and momentum: v <- momentum v + g, p <- p - learning rate v.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from cnn_jax.analysis import twin_jax
from cnn_jax.analysis.figures import log_ticks, new_figure, save
from cnn_jax.data import Dataset, epoch_order

SIDES = ('jax', 'torch')
# model -> data set, options that make it small or deterministic
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    'lecture_cnn': ('digits', {}),
    'vgg16': ('cifar10_jpeg', {'head': 'pooled'}),
    'm5': ('fsdd', {}),
    'textcnn': ('trec', {'dropout': 0.0}),
    'autoencoder': ('digits', {}),
}
KEPT_STEPS = (1, 2, 5, 10, 20, 50, 100)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to compare; `steps` are trained for each seed, the first `compared_steps` of seed 0 also
    step by step, in float32 and float64."""

    model: str
    options: dict[str, Any]
    seeds: int
    steps: int
    compared_steps: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.9
    implementation: str = ''
    test_examples: int = 2000


def prepare(folder: pathlib.Path, plan: Plan, dataset: Dataset) -> None:
    """Writes the task.

    Raises:
        ValueError: no twin of this model, or a model that does not fit the data.
    """
    if plan.model not in MODELS:
        raise ValueError(f'model={plan.model!r}: must be one of {", ".join(MODELS)}')
    pixels = plan.model == 'autoencoder'
    options = MODELS[plan.model][1] | dataset.model_options | plan.options
    task = {
        'model': plan.model,
        'kind': dataset.kind,
        'options': options,
        'input_shape': dataset.input_shape,
        'num_classes': dataset.num_classes,
        'implementation': plan.implementation,
        'loss': 'pixels' if pixels else 'classes',
        'learning_rate': plan.learning_rate,
        'momentum': plan.momentum,
        'seeds': plan.seeds,
        'compared_steps': min(plan.compared_steps, plan.steps),
        'kept_steps': [n for n in KEPT_STEPS if n <= min(plan.compared_steps, plan.steps)],
    }
    net = twin_jax.make_net(task, 'float32')
    (folder / 'task.json').write_text(json.dumps(task, indent=1) + '\n')
    for seed in range(plan.seeds):
        params, rest = jax.jit(net.init, static_argnums=0)(seed)
        np.savez(folder / f'weights_{seed}.npz', **jax.tree.map(np.asarray, params | rest))
    train, test = dataset.splits['train'], dataset.splits['test']
    rows, order = _rows(plan, len(train))
    np.savez(
        folder / 'data.npz',
        train_inputs=_ready(dataset, train.inputs[rows], pixels),
        train_labels=train.labels[rows],
        test_inputs=_ready(dataset, test.inputs[: plan.test_examples], pixels),
        test_labels=test.labels[: plan.test_examples],
        order=order,
    )


def _rows(plan, count):
    """The training examples that are used, and for each step the places among them."""
    per_epoch = count // plan.batch_size
    if per_epoch == 0:
        raise ValueError(f'batch_size={plan.batch_size}: there are only {count} training examples')
    order = np.stack(
        [
            np.concatenate(
                [
                    epoch_order(seed, epoch, count)[: per_epoch * plan.batch_size]
                    for epoch in range(-(-plan.steps // per_epoch))
                ]
            )[: plan.steps * plan.batch_size].reshape(plan.steps, plan.batch_size)
            for seed in range(plan.seeds)
        ]
    )
    rows, places = np.unique(order, return_inverse=True)
    return rows, places.reshape(order.shape)


def _ready(dataset, inputs, pixels):
    if pixels:
        return np.asarray(inputs, np.float32) / 255
    ready = np.asarray(dataset.normalize(jnp.asarray(inputs)))
    return ready if dataset.kind == 'text' else ready.astype(np.float32)


def run(folder: pathlib.Path, side: str) -> dict[str, np.ndarray]:
    """Runs one side in a process of its own.

    Raises:
        ImportError: PyTorch is not installed.
        RuntimeError: the process failed; its last line is in the message.
    """
    here = pathlib.Path(__file__)
    root = here.parents[2]
    path = os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')])
    script = str(here.with_name('twin_torch.py'))
    how = ['-m', 'cnn_jax.analysis.twin_jax'] if side == 'jax' else ['-P', script]
    done = subprocess.run(
        [sys.executable, *how, str(folder)],
        # Unfiltered, the exception is the last line.
        env=os.environ | {'PYTHONPATH': path, 'JAX_TRACEBACK_FILTERING': 'off'},
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    if done.returncode:
        if "No module named 'torch'" in done.stderr:
            raise ImportError('PyTorch is not installed: pip install "cnn_jax[compare]"')
        lines = done.stderr.strip().splitlines() or [f'exit code {done.returncode}']
        raise RuntimeError(f'the {side} side failed: {lines[-1]}')
    return dict(np.load(folder / f'{side}.npz'))


def relative(ours: Sequence, theirs: Sequence) -> float:
    """The largest difference of two lists of arrays, array by array: ||a - b|| over ||b||, or over
    a thousandth of the norm of all b together where that is larger. (The gradient of a bias before
    batch norm, for instance, is zero, and what is there is rounding.)"""
    ours, theirs = ([np.asarray(a, np.float64) for a in some] for some in (ours, theirs))
    norms = [np.linalg.norm(b) for b in theirs]
    least = max(1e-3 * np.linalg.norm(norms), 1e-300)
    return max(
        float(np.linalg.norm(a - b) / max(norm, least))
        for a, b, norm in zip(ours, theirs, norms, strict=True)
    )


def differences(
    ours: Mapping, theirs: Mapping, steps: Sequence[int]
) -> dict[str, dict[str, float]]:
    """The largest relative difference over arrays (see `relative`), quantity -> pair -> value.

    Pairs: 'float32' and 'float64' between the two sides, and each side's float32 against its own
    float64, which is what rounding alone does to it.
    """
    names = [k.removeprefix('float32/gradient/') for k in ours if k.startswith('float32/gradient/')]
    quantities = {
        'logits of step 1': ['logits'],
        'gradients of step 1': [f'gradient/{n}' for n in names],
        **{f'parameters after {s}': [f'step/{s}/{n}' for n in names] for s in steps},
        'losses': ['losses'],
    }
    pairs = {
        'float32': (ours, theirs, 'float32', 'float32'),
        'jax rounding': (ours, ours, 'float32', 'float64'),
        'torch rounding': (theirs, theirs, 'float32', 'float64'),
        'float64': (ours, theirs, 'float64', 'float64'),
    }
    return {
        quantity: {
            pair: relative([a[f'{x}/{key}'] for key in keys], [b[f'{y}/{key}'] for key in keys])
            for pair, (a, b, x, y) in pairs.items()
        }
        for quantity, keys in quantities.items()
    }


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """`differences` for a terminal."""
    heads = ['JAX-PyTorch f32', 'JAX f32-f64', 'PyTorch f32-f64', 'JAX-PyTorch f64']
    lines = [f'{"largest relative difference":<28}' + ''.join(f'{h:>17}' for h in heads)]
    for quantity, values in found.items():
        lines.append(f'{quantity:<28}' + ''.join(f'{v:>17.1e}' for v in values.values()))
    return '\n'.join(lines)


def seed_results(side: Mapping, seeds: int) -> dict[str, Any]:
    """Test result, median milliseconds a step after the first three, and peak memory."""
    tests = [float(side[f'train/{seed}/test']) for seed in range(seeds)]
    times = np.concatenate([side[f'train/{seed}/seconds'][3:] for seed in range(seeds)])
    return {
        'test': tests,
        'test_mean': float(np.mean(tests)),
        'test_std': float(np.std(tests, ddof=1)) if seeds > 1 else None,
        'step_ms': 1e3 * float(np.median(times)) if len(times) else None,
        'first_step_s': float(side['train/0/seconds'][0]),
        'memory_mb': float(side['memory']) / 1e6,
    }


def curves(sides: Mapping[str, Mapping], seeds: int, path=None, *, title: str = '') -> Figure:
    """Loss against step of both sides, every seed; and the difference of the two, by seed."""
    figure = new_figure(10, 3.9)
    left, right = figure.subplots(1, 2)
    for side, colour, style in (('jax', 'tab:blue', '-'), ('torch', 'tab:orange', '--')):
        for seed in range(seeds):
            losses = sides[side][f'train/{seed}/losses']
            label = {'jax': 'cnn_jax', 'torch': 'PyTorch'}[side] if seed == 0 else None
            left.plot(
                range(1, len(losses) + 1), losses, style, color=colour, linewidth=1, label=label
            )
    left.set_xlabel('training step')
    left.set_ylabel('loss of the batch')
    left.set_yscale('log')
    log_ticks(left.yaxis)
    left.legend()
    left.grid(alpha=0.3)
    left.set_title(f'training loss, {seeds} seed(s)')
    for seed in range(seeds):
        ours, theirs = (sides[side][f'train/{seed}/losses'] for side in SIDES)
        gap = np.maximum(np.abs(ours - theirs), 1e-10)
        right.plot(range(1, len(gap) + 1), gap, linewidth=0.8, label=f'seed {seed}')
    right.set_yscale('log')
    right.set_xlabel('training step')
    right.set_ylabel('|difference of the losses|')
    right.set_title('float32 difference (0 drawn as 1e-10)')
    right.grid(alpha=0.3)
    right.legend()
    if title:
        figure.suptitle(title)
    return save(figure, path)

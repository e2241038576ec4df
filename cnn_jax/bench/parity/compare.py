"""Compares training of the same network in JAX and in PyTorch.

The module prepares a task, runs both sides and compares the results. A task is a folder with

    task.json               what to do
    data.npz                train_inputs, train_labels, test_inputs and test_labels as the network
                            takes them; order (seeds, steps, batch), the rows of each batch
    weights_<seed>.npz      initial parameters by name, float32
    augmented_<seed>.npy    (steps, batch, ...), the augmented batches, float32; only if the
                            training examples are augmented

Each side writes <side>.npz. For float32 and float64 it contains the logits and gradients of the
first batch, the losses, and the parameters after some steps. For each seed it contains the losses,
the seconds per step and the result on the test examples. It also contains the peak memory.

Both sides take the training step of `cnn_jax.training`. The task contains its learning rates, and
the PyTorch side reimplements its optimiser with PyTorch's.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from cnn_jax.bench.parity import jax_side
from cnn_jax.bench.process import run_python
from cnn_jax.data import Dataset, batch_rows
from cnn_jax.data.order import steps_per_epoch
from cnn_jax.errors import UserError
from cnn_jax.tables import aligned
from cnn_jax.training import augment
from cnn_jax.training.config import TrainConfig, option
from cnn_jax.training.optimizer import learning_rate
from cnn_jax.viz.figures import log_ticks, new_figure, save

SIDES = ('jax', 'torch')
# The data set of each model, and options that make the model small or deterministic.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    'lecture_cnn': ('digits', {}),
    'vgg16': ('cifar10_jpeg', {'head': 'pooled'}),
    'vgg16_bn': ('cifar10_jpeg', {'head': 'pooled'}),
    'cifar_resnet20': ('cifar10_jpeg', {}),
    'm5': ('fsdd', {}),
    'textcnn': ('trec', {'dropout': 0.0}),
    'autoencoder': ('digits', {}),
    'unet': ('digit_scenes', {}),
}
KEPT_STEPS = (1, 2, 5, 10, 20, 50, 100)
# Fields of a recipe that the PyTorch side does not implement.
_NOT_COMPARED = (
    'dtype', 'clip_norm', 'max_norm', 'init_from', 'pretrained', 'accumulate', 'remat',
    'label_smoothing', 'ema', 'ema_warmup', 'parallel',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ParityConfig(TrainConfig):
    """A training that both sides can run; a recipe of `train.py` has the same meaning here.

    Options for saving and monitoring a run are ignored. `seed` is the seed of the first training.
    """

    model: str = option('lecture_cnn', 'model', choices=tuple(MODELS))
    optimizer: str = option('adamw', 'optimiser', choices=('sgd', 'adam', 'adamw'))
    dataset: str = option('', 'data set, by name (default: one that suits the model)')
    epochs: float = option(1.0, 'training length in epochs', at_least=0.0)

    def __post_init__(self):
        super().__post_init__()
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in _NOT_COMPARED:
            if getattr(self, name) != defaults[name]:
                raise UserError(
                    f'{name}={getattr(self, name)!r} cannot be compared with PyTorch; leave it at '
                    f'{defaults[name]!r}'
                )
        if augment.mixes(augment.parse(self.augment, 'image')):
            raise UserError(f'augment={self.augment!r}: mixup and cutmix cannot be compared')


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to compare.

    Attributes:
        config: the training.
        seeds: number of trainings, each from a different seed.
        compared_steps: number of steps of the first training that are also compared step by step,
            in float32 and float64.
        test_examples: number of test examples, taken from the start of the test set; 0 means all.
    """

    config: ParityConfig
    seeds: int = 1
    compared_steps: int = 20
    test_examples: int = 0


def prepare(folder: pathlib.Path, plan: Plan, dataset: Dataset) -> dict[str, Any]:
    """Writes the task and returns the content of task.json.

    Raises:
        ValueError: the model or the batch size does not fit the data.
    """
    config = plan.config
    train, test = dataset.splits['train'], dataset.splits['test']
    per_epoch = steps_per_epoch(len(train), config.batch_size)
    steps = config.total_steps(per_epoch)
    rates = learning_rate(config, steps, config.in_steps(config.warmup, per_epoch))
    pixels = config.model == 'autoencoder'
    compared = min(plan.compared_steps, steps)
    seeds = [config.seed + i for i in range(plan.seeds)]
    task = {
        'config': dataclasses.asdict(config),
        'kind': dataset.kind,
        'options': MODELS[config.model][1] | dataset.model_options | config.read_model_options(),
        'input_shape': dataset.input_shape,
        'num_classes': dataset.num_classes,
        'loss': 'pixels' if pixels else 'classes',
        'learning_rates': np.asarray(jax.vmap(rates)(jnp.arange(steps))).tolist(),
        'seeds': plan.seeds,
        'compared_steps': compared,
        'kept_steps': [n for n in KEPT_STEPS if n <= compared],
    }
    net = jax_side.make_net(task, 'float32')
    augment.parse(config.augment, dataset.kind)
    if config.augment and dataset.task == 'segmentation':
        raise UserError(f'augment={config.augment!r}: masks are compared without augmentation')
    (folder / 'task.json').write_text(json.dumps(task, indent=1) + '\n')
    order = np.stack(
        [
            [
                batch_rows(step, seed=seed, n=len(train), batch_size=config.batch_size)
                for step in range(steps)
            ]
            for seed in seeds
        ]
    )
    rows, places = np.unique(order, return_inverse=True)
    order = places.reshape(order.shape)
    inputs = _ready(dataset, train.inputs[rows], pixels)
    tested = plan.test_examples or len(test)
    np.savez(
        folder / 'data.npz',
        train_inputs=inputs,
        train_labels=train.labels[rows],
        test_inputs=_ready(dataset, test.inputs[:tested], pixels),
        test_labels=test.labels[:tested],
        order=order,
    )
    for i, seed in enumerate(seeds):
        params, model_state = jax.jit(net.init, static_argnums=0)(seed)
        np.savez(folder / f'weights_{i}.npz', **jax.tree.map(np.asarray, params | model_state))
        if config.augment:
            path = folder / f'augmented_{i}.npy'
            _write_augmented(path, config, dataset.kind, jax.random.key(seed), inputs, order[i])
    return task


def _write_augmented(path, config, kind, key, inputs, order):
    """Writes the batches of one training as augmented by `config.augment`."""
    change = jax.jit(lambda key, batch: augment.make_augment(config, kind)(key, batch, None)[0])
    shape = (*order.shape, *inputs.shape[1:])
    written = np.lib.format.open_memmap(path, 'w+', np.float32, shape)
    for step, rows in enumerate(order):
        written[step] = change(jax.random.fold_in(key, step), inputs[rows])
    written.flush()


def _ready(dataset, inputs, pixels):
    if pixels:
        return np.asarray(inputs, np.float32) / 255
    ready = np.asarray(dataset.normalize(jnp.asarray(inputs)))
    return ready if dataset.kind == 'text' else ready.astype(np.float32)


def run(folder: pathlib.Path, side: str) -> dict[str, np.ndarray]:
    """Runs one side in a separate process and returns its results.

    Raises:
        ImportError: PyTorch is not installed.
        RuntimeError: the process failed; the message has its last line.
    """
    script = str(pathlib.Path(__file__).with_name('torch_side.py'))
    command = ['-m', 'cnn_jax.bench.parity.jax_side'] if side == 'jax' else ['-P', script]
    # The process prints a progress bar, which the user should see.
    run_python([*command, str(folder)], what=f'the {side} side', shows_output=True)
    return dict(np.load(folder / f'{side}.npz'))


def relative(ours: Sequence, theirs: Sequence) -> float:
    """Returns the largest relative difference between corresponding arrays of two lists.

    The difference is ||a - b|| divided by ||b||, or by a thousandth of the norm of all b together
    if that is larger. This lower bound matters, for instance, for the gradient of a bias before
    batch norm, which is zero except for rounding errors.
    """
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
    """Returns the largest relative differences (see `relative`): quantity -> pair -> value.

    The pairs 'float32' and 'float64' compare the two sides. The pairs 'jax rounding' and 'torch
    rounding' compare a side's float32 with its own float64 and show the effect of rounding alone.
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
    """Formats `differences` for a terminal."""
    heads = ('JAX-PyTorch f32', 'JAX f32-f64', 'PyTorch f32-f64', 'JAX-PyTorch f64')
    rows = [(name, *(f'{v:.1e}' for v in values.values())) for name, values in found.items()]
    return aligned([('largest relative difference', *heads), *rows])


def seed_results(side: Mapping, seeds: int) -> dict[str, Any]:
    """Returns test results, median milliseconds per step after the first three, and peak memory."""
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
    """Plots the loss of both sides against the step, and their difference, for every seed."""
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

"""Trains the same network, weights and batches in cnn_jax and in PyTorch.

    python experiments/compare_pytorch.py --model=lecture_cnn --seeds=3 --epochs=5
    python experiments/compare_pytorch.py --flagfile=experiments/recipes/cifar10_jpeg_resnet20.flags
    python experiments/compare_pytorch.py --dataset=mnist --epochs=5 --whole=first,again,torch

Compares outputs, gradients, and the parameters after each of the first steps, in float32 and in
float64: a difference that disappears in float64 is due to rounding. Then compares whole training
runs from several seeds: loss curves, test accuracy, time per step and peak memory. Each side runs
in its own process. The script takes the flags of train.py, so that its recipes can be compared, and
rejects settings that have no counterpart here. It writes results.json and losses.png, and needs the
extra `compare`.

With --whole, it times whole processes instead: experiments/train.py with an empty compilation
cache (first) and a filled one (again), and the same training as a program in PyTorch, eager (torch)
or compiled (torch.compile). It writes whole.json.

Exit codes: 0 success; 1 the float64 results differ; 2 a flag is wrong, or data or PyTorch is
missing.
"""

import dataclasses
import importlib.util
import json
import pathlib
import tempfile

from absl import flags

from cnn_jax import cli
from cnn_jax.bench import machine
from cnn_jax.bench.parity import compare as parity
from cnn_jax.bench.parity import whole
from cnn_jax.errors import UserError
from cnn_jax.tables import aligned
from cnn_jax.training.job import load_data

cli.define_flags(parity.ParityConfig)
flags.DEFINE_integer('seeds', 3, 'number of trainings', lower_bound=1)
flags.DEFINE_integer('compared_steps', 20, 'steps compared one by one', lower_bound=1)
flags.DEFINE_integer('test_examples', 0, 'test examples used; 0: all', lower_bound=0)
flags.DEFINE_list('whole', [], f'time whole processes: some of {", ".join(whole.SIDES)}')
cli.define_path('output', '', 'output folder (default: runs/compare_pytorch/<model>)')

FLOAT64 = 1e-9  # float64 rounding errors after 20 steps, with a margin


def main(argv):
    del argv
    f = flags.FLAGS
    with cli.bad_input():
        if importlib.util.find_spec('torch') is None:
            raise UserError('PyTorch is not installed: pip install "cnn_jax[compare]"')
        config = cli.from_flags(parity.ParityConfig)
        name = config.dataset or parity.MODELS[config.model][0]
        config = dataclasses.replace(config, dataset=name)
        dataset = load_data(config)
        whole.check(config, dataset, f.whole)
        plan = parity.Plan(config, f.seeds, f.compared_steps, f.test_examples)
        output = pathlib.Path(f.output or f'runs/compare_pytorch/{f.model}')
        output.mkdir(parents=True, exist_ok=True)
        # In the output folder, because augmented batches can fill gigabytes and /tmp may be too
        # small.
        folder = tempfile.TemporaryDirectory(dir=output, prefix='task-')
        path = pathlib.Path(folder.name)
        task = parity.prepare(path, plan, dataset)
    where = machine.one_line()
    steps = len(task['learning_rates'])
    print(f'{f.model} on {dataset.name}, {steps} steps of {f.batch_size}; {where}', flush=True)
    if f.whole:
        with folder:
            return _whole(path, plan, output)
    with folder:
        try:
            sides = {side: parity.run(path, side) for side in parity.SIDES}
        except RuntimeError as error:
            cli.fail(error, 1)
    found = parity.differences(sides['jax'], sides['torch'], task['kept_steps'])
    results = {side: parity.seed_results(sides[side], plan.seeds) for side in parity.SIDES}
    title = f'{f.model} on {dataset.name}: {where}'
    parity.curves(sides, plan.seeds, output / 'losses.png', title=title)
    written = {
        'plan': {'config': config.identity(), 'seeds': f.seeds, 'dataset': dataset.name},
        'machine': machine.describe(),
        'torch': machine.versions(['torch'])['torch'],
        'differences': found,
        'results': results,
    }
    (output / 'results.json').write_text(json.dumps(written, indent=1) + '\n')
    what = {'autoencoder': 'test loss', 'unet': 'test mean IoU'}.get(f.model, 'test accuracy')
    print(f'\n{parity.table(found)}\n\n{_side_table(results, what)}\n')
    worst = max(values['float64'] for values in found.values())
    ours, theirs = results['jax']['test_mean'], results['torch']['test_mean']
    print(
        f'float64 differs by {worst:.1e}; {what} {ours:.4f} and {theirs:.4f} (PyTorch); '
        f'written to {output}'
    )
    return int(worst > FLOAT64)


def _whole(path, plan, output):
    """Times whole processes, one per side and seed, and writes whole.json."""
    results = []
    try:
        for side, result in whole.rounds(path, plan.config, flags.FLAGS.whole, plan.seeds):
            print(f'{side}: {result["seconds"]:.2f} s, test {result["test"]:.4f}', flush=True)
            results.append((side, result))
    except RuntimeError as error:
        cli.fail(error, 1)
    sums = whole.summary(results)
    written = {'config': plan.config.identity(), 'machine': machine.describe(), 'sides': sums}
    written['torch'] = machine.versions(['torch'])['torch']
    (output / 'whole.json').write_text(json.dumps(written, indent=1) + '\n')
    print(f'\n{whole.table(sums)}\n\nwritten to {output}')
    return 0


def _side_table(results, what):
    rows = [('', f'{what} (mean ± std)', 'ms per step', 'first step s', 'MB')]
    for side, name in (('jax', 'cnn_jax'), ('torch', 'PyTorch')):
        r = results[side]
        test = f'{r["test_mean"]:.4f}'
        if r['test_std'] is not None:
            test += f' ± {r["test_std"]:.4f}'
        step = '-' if r['step_ms'] is None else f'{r["step_ms"]:.2f}'
        rows.append((name, test, step, f'{r["first_step_s"]:.2f}', f'{r["memory_mb"]:.0f}'))
    return aligned(rows, left=2)


if __name__ == '__main__':
    cli.run(main)

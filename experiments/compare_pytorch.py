"""The same network, weights and batches in cnn_jax and in PyTorch.

    python experiments/compare_pytorch.py --model=lecture_cnn --seeds=3 --epochs=5
    python experiments/compare_pytorch.py --model=vgg16 --model_options=width=0.25 --steps=20

Outputs, gradients, and parameters after each of the first steps, in float32 and in float64 (what
float64 brings together was rounding); then whole trainings from several seeds: loss curves, test
accuracy, time a step, peak memory. Each side runs in a process of its own. Written are
results.json and losses.png. Needs the extra `compare`.

Exit codes: 0; 1 the float64 results differ; 2 a wrong flag, no data, or no PyTorch.
"""

import dataclasses
import json
import pathlib
import tempfile

from absl import flags

from cnn_jax.training import cli

flags.DEFINE_string('model', 'lecture_cnn', 'lecture_cnn, vgg16, m5, textcnn or autoencoder')
flags.DEFINE_string('model_options', '', 'of the model, as in training: name=value,name=value')
flags.DEFINE_string('dataset', '', 'data set, by name (default: one that suits the model)')
flags.DEFINE_string('data_dir', '', 'folder of prepared data sets')
flags.DEFINE_string('implementation', '', 'kernel of the JAX side (default: its own choice)')
flags.DEFINE_integer('seeds', 3, 'trainings', lower_bound=1)
flags.DEFINE_float('epochs', 1.0, 'length of a training', lower_bound=0.0)
flags.DEFINE_integer('steps', 0, 'length of a training in steps, instead of epochs', lower_bound=0)
flags.DEFINE_integer('compared_steps', 20, 'steps compared one by one', lower_bound=1)
flags.DEFINE_integer('batch_size', 64, 'examples in a step', lower_bound=1)
flags.DEFINE_float('learning_rate', 0.01, 'of SGD', lower_bound=0.0)
flags.DEFINE_string('output', '', 'folder (default: runs/compare_pytorch/<model>)')

FLOAT64 = 1e-9  # what 20 steps leave of float64's rounding, with room


def main(argv):
    del argv
    f = flags.FLAGS
    with cli.bad_input():
        import importlib.util

        if importlib.util.find_spec('torch') is None:
            raise ValueError('PyTorch is not installed: pip install "cnn_jax[compare]"')
        from cnn_jax import data
        from cnn_jax.analysis import machine, twins
        from cnn_jax.training.config import TrainConfig

        if f.model not in twins.MODELS:
            raise ValueError(f'model={f.model!r}: must be one of {", ".join(twins.MODELS)}')
        dataset = data.load(f.dataset or twins.MODELS[f.model][0], data_dir=f.data_dir or None)
        steps = f.steps or round(f.epochs * (len(dataset.splits['train']) // f.batch_size))
        plan = twins.Plan(
            model=f.model,
            options=TrainConfig(model_options=f.model_options).read_model_options(),
            seeds=f.seeds,
            steps=max(steps, 1),
            compared_steps=f.compared_steps,
            batch_size=f.batch_size,
            learning_rate=f.learning_rate,
            implementation=f.implementation,
        )
        folder = tempfile.TemporaryDirectory()
        task = pathlib.Path(folder.name)
        twins.prepare(task, plan, dataset)
    output = pathlib.Path(f.output or f'runs/compare_pytorch/{f.model}')
    output.mkdir(parents=True, exist_ok=True)
    where = machine.one_line()
    print(f'{f.model} on {dataset.name}, {plan.steps} steps of {plan.batch_size}; {where}')
    with folder:
        try:
            sides = {side: twins.run(task, side) for side in twins.SIDES}
        except RuntimeError as error:
            cli.fail(error, 1)
        kept = json.loads((task / 'task.json').read_text())['kept_steps']
    found = twins.differences(sides['jax'], sides['torch'], kept)
    results = {side: twins.seed_results(sides[side], plan.seeds) for side in twins.SIDES}
    title = f'{f.model} on {dataset.name}: {where}'
    twins.curves(sides, plan.seeds, output / 'losses.png', title=title)
    written = {
        'plan': dataclasses.asdict(plan) | {'dataset': dataset.name},
        'machine': machine.describe(),
        'torch': machine.versions(['torch'])['torch'],
        'differences': found,
        'results': results,
    }
    (output / 'results.json').write_text(json.dumps(written, indent=1) + '\n')
    what = 'test loss' if f.model == 'autoencoder' else 'test accuracy'
    print(f'\n{twins.table(found)}\n\n{_side_table(results, what)}\n')
    worst = max(values['float64'] for values in found.values())
    ours, theirs = results['jax']['test_mean'], results['torch']['test_mean']
    print(
        f'float64 differs by {worst:.1e}; {what} {ours:.4f} and {theirs:.4f} (PyTorch); '
        f'written to {output}'
    )
    return int(worst > FLOAT64)


def _side_table(results, what):
    lines = [f'{"":<10}{what + " (mean ± std)":<30}{"ms a step":>11}{"first step s":>14}{"MB":>8}']
    for side, name in (('jax', 'cnn_jax'), ('torch', 'PyTorch')):
        r = results[side]
        test = f'{r["test_mean"]:.4f}'
        if r['test_std'] is not None:
            test += f' ± {r["test_std"]:.4f}'
        step = '-' if r['step_ms'] is None else f'{r["step_ms"]:.2f}'
        first, memory = r['first_step_s'], r['memory_mb']
        lines.append(f'{name:<10}{test:<30}{step:>11}{first:>14.2f}{memory:>8.0f}')
    return '\n'.join(lines)


if __name__ == '__main__':
    cli.run(main)

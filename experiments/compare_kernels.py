"""Checks and times every kernel on every problem.

    python experiments/compare_kernels.py --problems=mb64_ic32ih28oc64kh3ph1
    python experiments/compare_kernels.py --suite=lecture
    python experiments/compare_kernels.py --model=vgg16 --input_shape=32,32,3 --batch_size=64
    python experiments/compare_kernels.py --model=m5 --input_shape=8000,1 --save_choices
    python experiments/compare_kernels.py --suite=issues
    python experiments/compare_kernels.py --suite=oneDNN/tests/benchdnn/inputs/conv/shapes_resnet_50
    python experiments/compare_kernels.py --suite=tuned --dtypes=bfloat16 --aot=v5e

Problems are strings in the format of oneDNN's benchdnn (described in
cnn_jax/bench/kernels/problem.py), a named suite, an input file of benchdnn (described in
cnn_jax/bench/kernels/benchdnn.py), or the layers of a model. Each kernel runs the forward pass and
both gradients in each dtype. The results give the reason why a kernel does not support a problem,
or its error against a float64 reference, its times, and its share of the peak that this machine
reaches. The script writes table.txt, results.json, and a bar chart and a roofline plot
per dtype. To compare whole training steps, see experiments/compare_steps.py.

With --save_choices, `implementation=None` then runs the fastest correct kernel of each pass on this
machine. To save time, every kernel is checked, but one that takes more than three times as long as
the fastest is not timed further.

--suite=issues runs public threads about faults and slowness of convolutions instead (see
docs/gallery.md), and writes gallery.md, results.json and reports of faults that still hold. Of the
other flags it uses --rounds, --limit and --output.

With --aot, the kernels are compiled for a TPU, which need not be there (docs/tpu.md), and its
compiler's estimates take the place of times; with --model, also those of its whole training step,
once for each kernel in place of XLA's own.

Exit codes: 0 success; 1 a kernel computed wrong results; 2 a flag or problem is wrong, or PyTorch
or the TPU compiler is missing.
"""

import functools
import json
import pathlib
import time

from absl import flags

from cnn_jax import cli
from cnn_jax.errors import UserError

flags.DEFINE_list('problems', [], 'problem strings, separated by commas')
flags.DEFINE_string(
    'suite', '', "named list of problems, a file of oneDNN's benchdnn, or issues (default: small)"
)
flags.DEFINE_integer(
    'sample', 0, 'problems per file of --suite, chosen by --seed (0: all)', lower_bound=0
)
flags.DEFINE_integer('seed', 0, 'seed of --sample')
flags.DEFINE_string('model', '', 'model whose layers to compare')
flags.DEFINE_list('input_shape', [], 'shape of one example of --model (default: 32,32,3)')
flags.DEFINE_integer('num_classes', 10, 'number of classes of --model', lower_bound=1)
flags.DEFINE_integer('batch_size', 0, 'batch size, instead of that of the problems', lower_bound=0)
flags.DEFINE_list('dtypes', ['float32'], 'float32, bfloat16, float16, float64, int8')
flags.DEFINE_list('passes', [], 'forward, input_grad, filter_grad (default: all)')
flags.DEFINE_list(
    'kernels', [], "kernels, by name; 'default' is what implementation=None runs (default: all)"
)
flags.DEFINE_string(
    'precision', '', "precision of products, as in JAX (default: the device's; highest)"
)
flags.DEFINE_integer('rounds', 5, 'samples of each time; 0: check only', lower_bound=0)
flags.DEFINE_float(
    'limit',
    2.0,
    'seconds to spend on the samples of one kernel (default with --save_choices: 0.2)',
    lower_bound=0.0,
)
flags.DEFINE_bool('cold_cache', False, 'empty the caches before each timed call')
flags.DEFINE_float(
    'check_macs',
    5e8,
    'multiply-adds to spend on a float64 reference (default with --save_choices: 1e8)',
)
flags.DEFINE_bool('pytorch', False, 'also time PyTorch, in a separate process')
flags.DEFINE_bool('save_choices', False, 'let implementation=None use what is fastest here')
flags.DEFINE_string('aot', '', 'compile for this TPU (v5e, v5p, v6e) and estimate; time nothing')
flags.DEFINE_bool('layers', True, "with --aot and --model: also compile the model's layers singly")
flags.DEFINE_bool('bundles', False, 'with --aot: count the bundles of every kernel, too')
cli.define_path('output', 'runs/compare_kernels', 'folder for the tables and pictures')

# What --save_choices spends on a kernel if the flags do not say otherwise. `give_up` is no flag.
CHOOSING = {'limit': 0.2, 'check_macs': 1e8, 'give_up': 3.0}
DTYPES = ('float32', 'bfloat16', 'float16', 'float64', 'int8')


def main(argv):
    del argv
    if flags.FLAGS.suite == 'issues':
        return _gallery()
    with cli.bad_input():
        import jax

        if flags.FLAGS.aot:
            jax.config.update('jax_platforms', 'cpu')  # must not search for a TPU
        from cnn_jax.bench import machine
        from cnn_jax.bench.kernels import compare, report
        from cnn_jax.ops.platforms import default_platform
        from cnn_jax.ops.tuning import table

        dtypes = _one_of('dtypes', DTYPES)
        passes = _one_of('passes', compare.PASSES)
        tasks, counts = _tasks(dtypes, passes)
        compare.check_kernels([problem for problem, _, _ in tasks], flags.FLAGS.kernels)
        dtypes = list(dict.fromkeys(dtype for _, dtype, _ in tasks))
        if 'float64' in dtypes:
            jax.config.update('jax_enable_x64', True)
        if flags.FLAGS.aot:
            return _estimate(tasks)
        torch = _torch_times(tasks, jax.devices()[0].platform) if flags.FLAGS.pytorch else {}
    print(machine.one_line())
    peaks = machine.peaks(dtypes)
    print(', '.join(f'{d} {g:.0f} GFLOP/s' for d, g in peaks['gemm_gflops'].items()), end=', ')
    print(f'memory {peaks["bandwidth_gbs"]:.0f} GB/s (measured)')
    rows = _measure(tasks)
    text = report.table(rows, peaks)
    known = {key: value for key, value in torch.items() if isinstance(value, float)}
    best = report.best_table(rows, known)
    ratios = report.ratios(rows, known)
    best = f'{best}\n\n{report.ratios_lines(ratios)}'
    sums = report.totals(rows, counts)
    output = pathlib.Path(flags.FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    every = 'every layer as often as it occurs: ' if flags.FLAGS.suite else 'one training step: '
    summary = (every if counts else '') + report.totals_line(sums)
    (output / 'table.txt').write_text(f'{machine.one_line()}\n{text}\n\n{best}\n\n{summary}\n')
    results = {
        'machine': machine.describe(),
        'peaks': peaks,
        'rows': [row.as_dict() for row in rows],
        'pytorch': [[*key, value] for key, value in torch.items()],
        'totals': sums,
        'default_over': [[*key, by_problem] for key, by_problem in ratios.items()],
    }
    (output / 'results.json').write_text(json.dumps(results, indent=1) + '\n')
    _draw(rows, peaks, known, output)
    print(f'{text}\n\n{best}\n')
    if flags.FLAGS.save_choices:
        platform = default_platform()
        path = table.own_path(platform)
        about = {'date': time.strftime('%Y-%m-%d')} | machine.describe()
        choices = compare.choices(rows, flags.FLAGS.precision or None)
        table.save(path, choices, about, platform)
        print(f'implementation=None now uses these measurements: {path}')
    wrong = [row for row in rows if row.right is False]
    print(f'{summary}; {len(wrong)} wrong results; written to {output}')
    return 1 if wrong else 0


def _gallery():
    f = flags.FLAGS
    with cli.bad_input():
        if f.problems or f.model:
            raise UserError('give one of --problems, --suite and --model')
        from cnn_jax.bench.gallery import run

    output = pathlib.Path(f.output)
    found = run.results(rounds=f.rounds, limit=f.limit)
    command = (
        f'python experiments/compare_kernels.py --suite=issues --rounds={f.rounds} '
        f'--limit={f.limit:g}\ncp {f["output"].default}/gallery.md docs/gallery.md'
    )
    print(run.write(found, output, command))
    wrong = run.ours_wrong(found)
    if wrong:
        print(f'this package is wrong in {", ".join(wrong)}')
    return 1 if wrong else 0


def _one_of(name, known):
    values = getattr(flags.FLAGS, name)
    for value in values:
        if value not in known:
            raise UserError(f'{name}: {value!r} must be one of {", ".join(known)}')
    return values


def _tasks(dtypes, passes):
    """Returns (problem, dtype, pass) of all that the flags name.

    For a model or a file of networks, also returns how often a step runs each; otherwise None.
    """
    from cnn_jax.bench.kernels import benchdnn, compare

    f = flags.FLAGS
    if sum(map(bool, (f.problems, f.suite, f.model))) > 1:
        raise UserError('give one of --problems, --suite and --model')
    if benchdnn.is_file(f.suite):
        return _file(f.dtypes if f['dtypes'].present else (), passes)
    problems, counts = _problems()
    tasks = [
        (problem, dtype, direction)
        for problem in problems
        for dtype in dtypes
        for direction in compare.passes(problem)
        if direction in (passes or compare.PASSES)
    ]
    return tasks, counts


def _file(dtypes, passes):
    from cnn_jax.bench.kernels import benchdnn

    f = flags.FLAGS
    suite = benchdnn.read(f.suite)
    if f.sample:
        suite = suite.sample(f.sample, f.seed)
    if f.batch_size:
        suite = suite.with_batch(f.batch_size)
    for note in suite.notes(dtypes):
        print(f'{f.suite}: {note}')
    found = suite.tasks(dtypes, passes)
    if not found:
        raise UserError(f'suite={f.suite!r}: the file has no problem to run')
    return list(found), {(str(p), dtype, d): n for (p, dtype, d), n in found.items()}


def _problems():
    """Returns the problems named by the flags and, for a model, how often a step runs each pass."""
    from cnn_jax.bench.kernels import problem
    from cnn_jax.bench.kernels.suites import SUITES

    f = flags.FLAGS
    if f.model:
        return _layers()
    suite = f.suite or 'small'
    if suite not in SUITES:
        raise UserError(f'suite={suite!r}: must be one of {", ".join(SUITES)}, issues, or a file')
    found = [problem.parse(text) for text in f.problems or SUITES[suite]]
    if f.batch_size:
        found = [p.replace(batch=f.batch_size) for p in found]
    return list(dict.fromkeys(found)), None


def _layers():
    from flax import nnx

    from cnn_jax import models
    from cnn_jax.inspection import layers

    f = flags.FLAGS
    shape = cli.integers('input_shape', at_least=1) if f.input_shape else (32, 32, 3)
    model = nnx.eval_shape(
        lambda: models.create(
            f.model, input_shape=shape, num_classes=f.num_classes, rngs=nnx.Rngs(0)
        )
    )
    found, counts = layers.problems(model, shape, f.batch_size or 64)
    if not found:
        raise UserError(f'model {f.model} has no convolution')
    return list(dict.fromkeys(found)), {
        (str(p), dtype, d): n for (p, d), n in counts.items() for dtype in f.dtypes
    }


def _measure(tasks):
    from tqdm import tqdm

    from cnn_jax.bench.kernels import compare

    f, rows = flags.FLAGS, []
    effort = {'limit': f.limit, 'check_macs': f.check_macs}
    if f.save_choices:
        asked = {name: value for name, value in effort.items() if f[name].present}
        effort = CHOOSING | asked
    with tqdm(tasks, unit='pass', disable=None, leave=False) as bar:
        for problem, dtype, direction in bar:
            bar.set_description(f'{problem} {direction}')
            rows += compare.measure(
                problem,
                direction,
                dtype,
                names=f.kernels or None,
                precision=f.precision or None,
                rounds=f.rounds,
                cold_cache=f.cold_cache,
                **effort,
            )
    return rows


def _estimate(tasks):
    """Compiles for a TPU instead of timing, and writes the compiler's estimates."""
    from cnn_jax.bench.tpu import estimate, estimate_report

    f = flags.FLAGS
    if f.save_choices or f.pytorch:
        raise UserError('save_choices and pytorch need times; with aot there are only estimates')
    save = functools.partial(estimate_report.save, pathlib.Path(f.output), f.aot)
    jobs = _jobs() if f.model else []
    tasks = tasks if f.layers else []
    size = f.batch_size or 64
    print(estimate.run(f.aot, tasks, jobs, f.kernels, size, save, count_all=f.bundles))
    print(f'written to {f.output}')
    return 0


def _jobs():
    """Returns the training job of --model in each dtype."""
    from cnn_jax.bench.tpu import steps
    from cnn_jax.training.config import TrainConfig

    f = flags.FLAGS
    shape = cli.integers('input_shape', at_least=1) if f.input_shape else (32, 32, 3)
    dataset = steps.shapes_only(shape, f.num_classes, f.model)
    return [steps.make_job(TrainConfig(model=f.model, dtype=d), dataset) for d in f.dtypes]


def _torch_times(tasks, platform):
    from cnn_jax.bench import timing
    from cnn_jax.bench.kernels import torch_side

    jobs = {(str(p), dtype, d): torch_side.job(p, d, dtype) for p, dtype, d in tasks}
    jobs = {key: job for key, job in jobs.items() if job}
    device = 'cuda' if platform == 'gpu' else 'cpu'
    seconds = torch_side.times(
        list(jobs.values()),
        device=device,
        rounds=flags.FLAGS.rounds or 1,
        evict=timing.cache_bytes() if flags.FLAGS.cold_cache else 0,
    )
    return dict(zip(jobs, seconds, strict=True))


def _draw(rows, peaks, torch, output):
    from cnn_jax.bench import machine
    from cnn_jax.bench.kernels import compare, pictures

    for dtype in dict.fromkeys(row.dtype for row in rows if row.steady_s):
        if not compare.best([row for row in rows if row.dtype == dtype]):
            continue
        where = machine.one_line()
        pictures.bars(rows, output / f'bars_{dtype}.png', dtype=dtype, torch=torch, title=where)
        pictures.roofline(rows, peaks, output / f'roofline_{dtype}.png', dtype=dtype, title=where)


if __name__ == '__main__':
    cli.run(main)

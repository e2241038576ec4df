"""Compares random convolutions, products and pools of XLA with NumPy.

    python experiments/fuzz_xla.py --cases=20000 --minutes=10
    python experiments/fuzz_xla.py --python=/path/of/another/environment/bin/python
    python experiments/fuzz_xla.py --case=1023 --setups=fast     # one case again
    python experiments/fuzz_xla.py --target=cnn_jax              # our operations instead

Each case is an operation (convolution, product, pool) with a dtype, a layout, a derivative, a loop
(vmap, scan) and a set of operands that are constants of the program, under a set of XLA's flags. A
result that differs from float64 NumPy by more than rounding explains is a fault. The script reduces
it to a small case and writes faults.jsonl, counts.json and reports. With several --python, each
environment, which needs only jax, gets an equal share of the time. docs/fuzzing.md explains more.

Exit codes: 0 no fault; 1 faults, written to the output; 2 a flag is wrong.
"""

import json
import pathlib
import sys

from absl import flags
from tqdm import tqdm

from cnn_jax import cli
from cnn_jax.errors import UserError

flags.DEFINE_integer('cases', 20000, 'how many cases to check at least', lower_bound=1)
flags.DEFINE_float('minutes', 10.0, 'when to stop, even if there were fewer', lower_bound=0.0)
flags.DEFINE_integer('seed', 0, 'another seed draws other cases', lower_bound=0)
flags.DEFINE_enum('target', 'xla', ['xla', 'cnn_jax'], 'what is tested')
flags.DEFINE_integer('case', None, 'check only the case of this number, in each setup')
flags.DEFINE_list('python', [], 'interpreters of environments with jax (default: this one)')
flags.DEFINE_list('setups', [], 'sets of flags, by name (default: all that this jaxlib has)')
cli.define_path('output', 'runs/fuzz_xla', 'folder for the results')


def main(argv):
    del argv
    with cli.bad_input():
        from cnn_jax.bench.fuzz import campaign, write

        output = pathlib.Path(flags.FLAGS.output)
        if flags.FLAGS.target == 'cnn_jax':
            return _ours(output)
        jobs = _jobs()
    if flags.FLAGS.case is not None:
        return _again(jobs)
    with tqdm(total=flags.FLAGS.cases, unit='case', smoothing=0) as bar:

        def say(done, faults):
            bar.update(done - bar.n)
            bar.set_postfix(faults=faults, refresh=False)

        summary = campaign.run(
            jobs,
            output,
            cases=flags.FLAGS.cases,
            seconds=60 * flags.FLAGS.minutes,
            seed=flags.FLAGS.seed,
            say=say,
        )
    written = write.all_reports(output, flags.FLAGS.python or [sys.executable])
    print(
        f'{summary["cases"]} cases, {summary["faults"]} differ, {len(written)} reports; '
        f'written to {output}'
    )
    return 1 if summary['faults'] else 0


def _again(jobs):
    """Checks one case."""
    from cnn_jax.bench.fuzz import campaign

    faults = 0
    for job in jobs:
        for line in campaign.chunk(job, flags.FLAGS.case, 1, 600.0):
            if 'counts' in line:
                print(f'{job.setup.name}: {line["counts"]}')
            elif 'fault' in line:
                print(json.dumps(line['fault']))
                faults += 1
    return 1 if faults else 0


def _ours(output):
    """Checks the operations of this package, in this process."""
    import jax

    from cnn_jax.bench.fuzz import ours

    jax.config.update('jax_disable_most_optimizations', True)  # compiling takes most of the time
    output.mkdir(parents=True, exist_ok=True)
    first, cases = flags.FLAGS.seed * 10**9, flags.FLAGS.cases
    checked = faults = 0
    if flags.FLAGS.case is not None:
        first, cases = flags.FLAGS.case, 1
    lines = ours.search(first, cases, 60 * flags.FLAGS.minutes)
    with open(output / 'faults.jsonl', 'a') as file, tqdm(total=cases, unit='case') as bar:
        for line in lines:
            if 'fault' in line:
                faults += 1
                file.write(json.dumps(line['fault']) + '\n')
            else:
                checked += line['counts']['checked']
                bar.update(line['counts']['checked'])
    print(f'{checked} cases, {faults} differ; written to {output}')
    return 1 if faults else 0


def _jobs():
    from cnn_jax.bench.fuzz import campaign, setups

    jobs = []
    wanted, names = flags.FLAGS.setups, ', '.join(s.name for s in setups.SETUPS)
    for python in flags.FLAGS.python or [sys.executable]:
        if not pathlib.Path(python).is_file():
            raise UserError(f'python: {python!r} is not a file; give the path of an interpreter')
        found = setups.existing(python)
        for name in wanted:
            if name not in {s.name for s in setups.SETUPS}:
                raise UserError(f'setups: unknown {name!r}; must be one of {names}')
        found = [s for s in found if not wanted or s.name in wanted]
        print(f'{python}: {", ".join(s.name for s in found)}')
        jobs += [campaign.Job(python, s, s.share) for s in found]
    return jobs


if __name__ == '__main__':
    cli.run(main)

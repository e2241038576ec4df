"""Shows where the milliseconds of a training step go, by the profilers of JAX and PyTorch.

    python experiments/profile_steps.py
    python experiments/profile_steps.py --networks=vgg16,m5 --dtypes=float32 --sides=native,pure

The networks and sides are those of experiments/compare_steps.py. Every side runs in its own
process, and the processes take turns: steps without the profiler, for their time, then steps under
it. Their time is divided among kinds of work, so that the parts sum to the step. Time in which
several threads work is divided equally among them; time in which none works has its own row.
cnn_jax/bench/steps/hlo.py and torch_trace.py say how operations are filed. The script writes
table.txt, table.md, results.json and a picture.

Exit codes: 0 success; 2 a flag is wrong, or PyTorch is missing.
"""

import json
import pathlib

from absl import flags

from cnn_jax import cli

flags.DEFINE_list('networks', [], 'small_vgg, vgg16, resnet18, ... (default: all)')
flags.DEFINE_list('dtypes', ['float32', 'bfloat16'], 'dtypes that layers compute in')
flags.DEFINE_list('sides', ['native', 'torch'], 'native, pure, installed, torch')
flags.DEFINE_integer('rounds', 3, 'processes per side; the median is reported', lower_bound=1)
flags.DEFINE_float('seconds', 1.0, 'seconds of steps before the profiler', lower_bound=0.0)
flags.DEFINE_integer('steps', 12, 'steps under the profiler', lower_bound=1)
cli.define_path('output', 'runs/profile_steps', 'folder for the tables and the picture')


def main(argv):
    del argv
    with cli.bad_input():
        from cnn_jax.bench import machine
        from cnn_jax.bench.steps import breakdown, compare
        from cnn_jax.bench.steps.networks import NETWORKS
        from cnn_jax.errors import UserError

        f = flags.FLAGS
        for side in f.sides:
            if side not in breakdown.SIDES:
                known = ', '.join(breakdown.SIDES)
                raise UserError(f'--sides={side}: its parts cannot be told apart; use {known}')
        networks = [NETWORKS.lookup(name) for name in f.networks or NETWORKS]
        turns = compare.rounds(
            networks, f.dtypes, f.sides, f.rounds, f.seconds, traced_steps=f.steps
        )
        first = next(turns)
    print(machine.one_line())
    total = len(networks) * len(f.dtypes) * len(f.sides) * f.rounds
    results = compare.gather(first, turns, total)
    output = pathlib.Path(f.output)
    output.mkdir(parents=True, exist_ok=True)
    sums = breakdown.summary(results)
    record = {
        'machine': machine.describe(),
        'summary': [[*key, values] for key, values in sums.items()],
        'results': [[*key, result] for key, result in results],
    }
    (output / 'results.json').write_text(json.dumps(record, indent=1) + '\n')
    text = breakdown.table(sums)
    (output / 'table.txt').write_text(f'{machine.one_line()}\n\n{text}\n')
    tables = [breakdown.markdown(sums, dtype) for dtype in f.dtypes]
    (output / 'table.md').write_text('\n\n'.join(tables) + '\n')
    breakdown.bars(sums, output / 'parts.png', title=machine.one_line())
    print(f'{text}\n\n{len(sums)} steps profiled; written to {output}')


if __name__ == '__main__':
    cli.run(main)

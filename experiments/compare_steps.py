"""Times whole training steps of well-known networks: cnn_jax, Flax's own modules, PyTorch.

    python experiments/compare_steps.py
    python experiments/compare_steps.py --networks=vgg16,m5 --dtypes=float32 --sides=native,flax

Every side runs the same network, batch and optimiser (SGD with momentum) in its own process, and
the processes take turns. The sides are `native` (cnn_jax as installed with the extra `cpu`), `pure`
(cnn_jax without its native kernel), `flax` (Flax's convolutions and pools), `installed` (the
unmodified Flax network after `cnn_jax.install()`), `torch` and `torch.compile` (both channels-last;
they need the extra `compare`). The script writes table.txt, results.json and a picture.

Exit codes: 0 success; 2 a flag is wrong, or PyTorch is missing.
"""

import json
import pathlib

from absl import flags

from cnn_jax import cli

flags.DEFINE_list('networks', [], 'small_vgg, vgg16, resnet18, ... (default: all)')
flags.DEFINE_list('dtypes', ['float32', 'bfloat16'], 'dtypes that layers compute in')
flags.DEFINE_list('sides', [], 'native, pure, flax, installed, torch, torch.compile (default: all)')
flags.DEFINE_integer('rounds', 3, 'processes per side; their median is reported', lower_bound=1)
flags.DEFINE_float('seconds', 3.0, 'seconds of steps in each process', lower_bound=0.0)
cli.define_path('output', 'runs/compare_steps', 'folder for the table and the picture')


def main(argv):
    del argv
    with cli.bad_input():
        from cnn_jax.bench import machine
        from cnn_jax.bench.steps import compare
        from cnn_jax.bench.steps.networks import NETWORKS

        f = flags.FLAGS
        networks = [NETWORKS.lookup(name) for name in f.networks or NETWORKS]
        sides = f.sides or list(compare.SIDES)
        turns = compare.rounds(networks, f.dtypes, sides, f.rounds, f.seconds)
        first = next(turns)
    print(machine.one_line())
    total = len(networks) * len(f.dtypes) * len(sides) * f.rounds
    results = compare.gather(first, turns, total)
    output = pathlib.Path(f.output)
    output.mkdir(parents=True, exist_ok=True)
    record = {
        'machine': machine.describe(),
        'results': [[*key, result] for key, result in results],
    }
    (output / 'results.json').write_text(json.dumps(record, indent=1) + '\n')
    sums = compare.summary(results)
    text = compare.table(sums)
    (output / 'table.txt').write_text(f'{machine.one_line()}\n{text}\n')
    compare.bars(sums, output / 'steps.png', title=machine.one_line())
    print(f'{text}\n\n{len(sums)} steps timed; written to {output}')


if __name__ == '__main__':
    cli.run(main)

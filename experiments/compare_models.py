"""Makes a table of models: parameters, multiply-accumulates, and training steps beside PyTorch's.

    python experiments/compare_models.py
    python experiments/compare_models.py --models=resnet50,densenet121 --dtype=bfloat16

A step is forward, backward and SGD with momentum, on random images. PyTorch's side is torchvision's
model of the same name, or the same network in PyTorch's functions, eager and channels-last (extra
`compare`). Every measurement is a separate process, and the two sides take turns. The script writes
table.md and results.json. For other libraries and compilers, see experiments/compare_steps.py.

Exit codes: 0 success; 2 a flag is wrong, or PyTorch or torchvision is missing.
"""

import json
import pathlib
import tempfile

from absl import flags

from cnn_jax import cli

flags.DEFINE_list('models', [], 'models, by name (default: those of the documented table)')
flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'dtype that layers compute in')
flags.DEFINE_integer('batch_size', 4, 'images per step', lower_bound=1)
flags.DEFINE_integer('image_size', 224, 'height and width of the images', lower_bound=1)
flags.DEFINE_integer('rounds', 2, 'processes per side; their median is reported', lower_bound=1)
flags.DEFINE_float('seconds', 2.0, 'seconds of steps in each process', lower_bound=0.0)
cli.define_path('output', 'runs/compare_models', 'folder for the table')


def main(argv):
    del argv
    with cli.bad_input():
        from tqdm import tqdm

        from cnn_jax.bench import machine
        from cnn_jax.bench.steps import compare, registered
        from cnn_jax.inspection import flops

        f = flags.FLAGS
        size = {'batch_size': f.batch_size, 'image_size': f.image_size}
        cases = {name: registered.case(name, **size) for name in f.models or registered.DEFAULT}
    print(machine.one_line())
    results = []
    # Compiled programs are kept, so that only the first round compiles them.
    with tempfile.TemporaryDirectory() as cache:
        turns = compare.rounds(
            [case.network for case in cases.values()], [f.dtype], registered.SIDES,
            f.rounds, f.seconds, environment={'JAX_COMPILATION_CACHE_DIR': cache},
        )  # fmt: skip
        with tqdm(total=len(cases) * len(registered.SIDES) * f.rounds, disable=None) as bar:
            for key, result in turns:
                results.append((key, result))
                bar.set_description(f'{key[0]} {key[-1]}')
                bar.update()
    sums = compare.summary(results)
    rows = []
    for name, case in cases.items():
        row = {'name': name, 'parameters': flops.parameters(case.model)}
        row['macs'] = flops.macs(case.model)
        for side in registered.SIDES:
            row[side] = sums[case.network.title, f.dtype, side]['step_ms']
        rows.append(row)
    output = pathlib.Path(f.output)
    output.mkdir(parents=True, exist_ok=True)
    record = {'machine': machine.describe(), **size, 'dtype': f.dtype, 'models': rows}
    record['results'] = [[*key, result] for key, result in results]
    (output / 'results.json').write_text(json.dumps(record, indent=1) + '\n')
    text = registered.markdown(rows)
    (output / 'table.md').write_text(f'{text}\n')
    print(f'{text}\n\n{len(rows)} models timed; written to {output}')


if __name__ == '__main__':
    cli.run(main)

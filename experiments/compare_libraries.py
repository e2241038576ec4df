"""Times one small network in five libraries, unmodified, without and with `cnn_jax.install()`.

    python experiments/compare_libraries.py
    python experiments/compare_libraries.py --libraries=linen,keras --dtypes=float32

The network (cnn_jax/bench/steps/libraries.py) is written as a user of each library would write it,
and does not refer to cnn_jax. Each library runs in one process, where steps of both kinds
alternate; medians are reported. The script writes table.txt and results.json. It needs the extra
`libraries`; it skips libraries that are not installed and prints a line for each.

Exit codes: 0 success; 2 a flag is wrong.
"""

import importlib.util
import json
import pathlib
import statistics
import time

from absl import flags

from cnn_jax import cli
from cnn_jax.errors import UserError
from cnn_jax.tables import aligned

flags.DEFINE_list('libraries', [], 'linen, nnx, haiku, equinox, keras (default: all)')
flags.DEFINE_list('dtypes', ['float32', 'bfloat16'], 'dtypes that layers compute in')
flags.DEFINE_list('features', ['32', '32', '64', '64', '128'], 'features of the convolutions')
flags.DEFINE_integer('batch_size', 128, 'images per step', lower_bound=1)
flags.DEFINE_integer('image_size', 28, 'pixels along each side', lower_bound=8)
flags.DEFINE_integer('steps', 15, 'timed steps of each kind', lower_bound=1)
cli.define_path('output', 'runs/compare_libraries', 'folder for the table')

PACKAGES = {'linen': 'flax', 'nnx': 'flax'}


def main(argv):
    del argv
    f = flags.FLAGS
    with cli.bad_input():
        from tqdm import tqdm

        from cnn_jax.bench import machine
        from cnn_jax.bench.steps.libraries import LIBRARIES

        names = f.libraries or list(LIBRARIES)
        for values, what, known in (
            (names, 'library', tuple(LIBRARIES)),
            (f.dtypes, 'dtype', ('float32', 'bfloat16')),
        ):
            for value in values:
                if value not in known:
                    raise UserError(f'unknown {what} {value!r}; must be one of {", ".join(known)}')
        features = cli.integers('features', at_least=1)
    print(machine.one_line())
    rows, missing = [], []
    for name in tqdm(names, disable=None):
        if importlib.util.find_spec(PACKAGES.get(name, name)) is None:
            missing.append(name)
            continue
        for dtype in f.dtypes:
            rows.append(
                {'library': name, 'dtype': dtype} | _times(LIBRARIES[name], features, dtype)
            )
    cells = [('library', 'dtype', 'XLA ms', 'installed ms', 'ratio')]
    for r in rows:
        xla, ours = r['xla_ms'], r['installed_ms']
        numbers = f'{xla:.1f}', f'{ours:.1f}', f'{xla / ours:.2f}'
        cells.append((r['library'], r['dtype'], *numbers))
    lines = [aligned(cells, left=2), *(f'{name}: not installed, left out' for name in missing)]
    output = pathlib.Path(f.output)
    output.mkdir(parents=True, exist_ok=True)
    record = {'machine': machine.describe(), 'rows': rows}
    (output / 'results.json').write_text(json.dumps(record, indent=1) + '\n')
    (output / 'table.txt').write_text('\n'.join([machine.one_line(), *lines]) + '\n')
    print('\n'.join([*lines, '', f'{len(rows)} programs timed; written to {output}']))


def _times(make, features, dtype):
    import jax.numpy as jnp
    import numpy as np

    import cnn_jax

    f = flags.FLAGS
    rng = np.random.default_rng(0)
    shape = (f.batch_size, f.image_size, f.image_size, 1)
    images = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, f.batch_size))
    state, step = make(features, dtype, images)
    taken = {False: [], True: []}
    for count in range(f.steps + 2):  # the first steps compile and run with cold caches
        for installed, times in taken.items():
            with cnn_jax.installed(installed):
                start = time.perf_counter()
                state, loss = step(state, images, labels)
                loss = float(loss)
                if count > 1:
                    times.append(time.perf_counter() - start)
    xla, ours = (1e3 * statistics.median(taken[key]) for key in (False, True))
    return {'xla_ms': xla, 'installed_ms': ours, 'last_loss': loss}


if __name__ == '__main__':
    cli.run(main)

"""Measures a GPU, a TPU or a CPU within ten minutes, offline, and writes one file to send back.

    python experiments/accelerator_report.py
    python experiments/accelerator_report.py --minutes=20 --networks=resnet50,vgg16 --nopytorch
    python experiments/accelerator_report.py --choices=OUT.json report1.json report2.json
    python experiments/accelerator_report.py --estimates=ESTIMATES.json report1.json

The parts: `machine` (devices, memory, fastest matrix product, bandwidth), `checks` (every kernel
against float64 in float32 and bfloat16, forward and both gradients), `kernels` (times of every
kernel on a suite), `training` (images per second of networks in bfloat16, and of the same in
PyTorch, compiled, where it is installed), `input` (how long training waits for examples). Each has
a share of the time; one that runs out of it, or fails, is recorded with the reason, and the rest
goes on. The script writes report.json and report.md.

With --choices, it makes a table of measured choices from reports of one kind of device instead:
CNN_JAX_TUNING=OUT.json lets `implementation=None` use it there. With --estimates, it compares
measured times with those that a compiler estimated: a JSON list of records {problem, map, kernel,
dtype, chip, microseconds}.

Exit codes: 0 success; 1 a kernel computed wrong results; 2 a flag or a file is wrong.
"""

import json
import os
import pathlib
import signal
import sys

from absl import flags

from cnn_jax import cli
from cnn_jax.errors import UserError

flags.DEFINE_float('minutes', 10.0, 'time for all parts together', lower_bound=0.1)
flags.DEFINE_bool(
    'small',
    os.environ.get('CNN_JAX_REPORT') == 'small',
    'tiny measurements, to try the program (default: whether CNN_JAX_REPORT=small)',
)
flags.DEFINE_list('parts', [], 'checks, kernels, training, input (default: all)')
flags.DEFINE_list('networks', [], 'models to train (default: those of the table in the documents)')
flags.DEFINE_string('suite', '', 'problems for kernels, as in compare_kernels.py')
flags.DEFINE_list('dtypes', ['bfloat16'], 'dtypes of kernels')
flags.DEFINE_integer('batch_size', 0, 'images per training step (default: 128)', lower_bound=0)
flags.DEFINE_integer('image_size', 0, 'their height and width (default: 224)', lower_bound=0)
flags.DEFINE_bool('pytorch', True, 'also train in PyTorch, if it is installed')
cli.define_path('output', 'runs/accelerator_report', 'folder for report.json and report.md')
cli.define_path('choices', '', 'table of measured choices to make from the reports given')
cli.define_path('estimates', '', 'estimates to compare with the reports given')
flags.DEFINE_string('chip', '', 'whose estimates to use, if the file has several chips')


def main(argv):
    f = flags.FLAGS
    with cli.bad_input():
        if f.choices or f.estimates:
            return _read(argv[1:])
        if len(argv) > 1:
            raise UserError(f'{argv[1]}: reports are read with --choices or --estimates')
        settings = _settings()
        output = pathlib.Path(f.output)
        output.mkdir(parents=True, exist_ok=True)
    import jax

    jax.config.update('jax_platforms', 'cpu')  # here; the parts use the device
    # An exception ends the process of a part, which would keep the device.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    from cnn_jax.bench.accelerator import report, tables
    from cnn_jax.inspection import flops

    with _Bar() as bar:
        for found in report.run(settings, bar, flops.macs):  # written after each part
            (output / 'report.json').write_text(json.dumps(found, indent=1) + '\n')
            text = tables.markdown(found)
            (output / 'report.md').write_text(text)
    wrong = sum(
        row.get('right') is False for part in found['parts'].values() for row in part['rows']
    )
    print(f'{text}\n{wrong} wrong results; to send back: {output / "report.json"}')
    return 1 if wrong else 0


def _settings():
    from cnn_jax import models
    from cnn_jax.bench.accelerator import report
    from cnn_jax.bench.kernels import benchdnn
    from cnn_jax.bench.kernels.suites import SUITES
    from cnn_jax.bench.steps.compare import DTYPES

    f = flags.FLAGS
    networks = f.networks or (['resnet18'] if f.small else report.NETWORKS)
    suite = f.suite or ('small' if f.small else 'accelerator')
    if benchdnn.is_file(suite):
        benchdnn.read(suite)
    elif suite not in SUITES:
        raise UserError(f'suite={suite!r}: must be one of {", ".join(SUITES)}, or a file')
    for part in f.parts:
        if part not in report.SHARES:
            raise UserError(f'parts: {part!r} must be one of {", ".join(report.SHARES)}')
    for dtype in f.dtypes:
        if dtype not in DTYPES:
            raise UserError(f'dtypes: {dtype!r} must be one of {", ".join(DTYPES)}')
    for name in networks:
        models.MODELS.lookup(name)
    return report.Settings(
        small=f.small,
        minutes=f.minutes,
        parts=tuple(f.parts or report.SHARES),
        networks=tuple(networks),
        suite=suite,
        dtypes=tuple(f.dtypes),
        batch_size=f.batch_size or (2 if f.small else 128),
        image_size=f.image_size or (64 if f.small else 224),
        pytorch=f.pytorch,
    )


class _Bar:
    """A progress bar over the measurements of all parts."""

    def __enter__(self):
        from tqdm import tqdm

        self.bar = tqdm(total=0, unit='measurement', disable=None, leave=False)
        return self

    def __exit__(self, *_):
        self.bar.close()

    def expect(self, count):
        self.bar.total += count
        self.bar.refresh()

    def done(self, text):
        self.bar.set_description(text)
        self.bar.update()


def _read(paths):
    from cnn_jax.bench.accelerator import choices

    f = flags.FLAGS
    reports = choices.read(paths)
    platform, device = choices.device(reports[0])
    if f.estimates:
        estimated = choices.read_estimates(f.estimates, f.chip)
        found = choices.agreement(choices.measured(choices.rows(reports)), estimated)
        print(f'measured on {device}, {len(reports)} report(s)\n{choices.agreement_text(found)}')
    if f.choices:
        count = choices.save(f.choices, reports)
        print(f'{count} maps measured on {platform}: {device}; written to {f.choices}')
    return 0


if __name__ == '__main__':
    cli.run(main, takes_files=True)

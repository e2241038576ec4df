"""Classifies files, as CSV: python experiments/predict.py --workdir=DIR a.png b.png > classes.csv

Images and WAV files give a row each, text files a row for every line. What the run's folder says of
its data set (size, statistics, vocabulary) is enough: the data set itself is not read.
"""

import csv
import sys

from absl import flags

from cnn_jax import cli, training
from cnn_jax.errors import UserError
from cnn_jax.training.prediction import probabilities, read_inputs

flags.DEFINE_string('workdir', None, 'folder of the run', required=True)
flags.DEFINE_string('output', '', 'CSV file (default: standard output)')
flags.DEFINE_integer('top', 1, 'classes per file, the most probable first', lower_bound=1)
flags.DEFINE_integer('step', -1, 'which checkpoint (-1: the newest)')
flags.DEFINE_boolean('averaged', False, 'with the moving average of the weights (--ema)')


def main(argv):
    values = flags.FLAGS
    with cli.bad_input():
        if not argv[1:]:
            raise UserError('no files: name images, WAV files or texts after the flags')
        run = training.load_run(
            values.workdir,
            step=None if values.step < 0 else values.step,
            averaged=values.averaged,
            examples=False,
        )
        names, inputs = read_inputs(run.dataset, argv[1:])
        output = open(values.output, 'w', newline='') if values.output else sys.stdout
    found = probabilities(run, inputs)
    with output:
        writer = csv.writer(output, lineterminator='\n')
        writer.writerow(['file', 'class', 'probability'])
        for name, row in zip(names, found, strict=True):
            for label in row.argsort()[::-1][: values.top]:
                writer.writerow([name, run.dataset.class_names[label], f'{row[label]:.6f}'])
        if values.output:
            print(f'{len(names)} files by {values.workdir} at step {run.step}: {values.output}')


if __name__ == '__main__':
    cli.run(main, takes_files=True)

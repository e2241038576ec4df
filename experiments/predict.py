"""Classifies files, as CSV: python experiments/predict.py --workdir=DIR a.png b.png > classes.csv

Images and WAV files give a row each, text files a row for every line, also for an empty one. A
folder stands for all files below it. The data set itself is not read: the folder of the run has its
size, statistics and vocabulary.

Exit codes: 0; 1 some files could not be read (a line each on standard error, the others are in the
CSV); 2 a wrong flag or folder, or none could be read.
"""

import contextlib
import csv
import sys

from absl import flags

from cnn_jax import cli, training
from cnn_jax.errors import UserError
from cnn_jax.training.prediction import probabilities, read_inputs

cli.define_path('workdir', None, 'folder of the run', required=True)
cli.define_path('output', '', 'CSV file (default: standard output)')
flags.DEFINE_integer('top', 1, 'classes per file, the most probable first', lower_bound=1)
cli.define_checkpoint_flags()


def main(argv):
    values = flags.FLAGS
    with cli.bad_input():
        if not argv[1:]:
            raise UserError('no files: name images, WAV files or texts after the flags')
        run = training.load_run(
            values.workdir,
            step=cli.checkpoint(),
            averaged=values.averaged,
            examples=False,
        )
        inputs = read_inputs(run.dataset, argv[1:])
        output = open(values.output, 'w', newline='') if values.output else sys.stdout
    found = probabilities(run, inputs.rows)
    with output if values.output else contextlib.nullcontext():
        writer = csv.writer(output, lineterminator='\n')
        writer.writerow(['file', 'class', 'probability'])
        for name, row in zip(inputs.names, found, strict=True):
            for label in row.argsort()[::-1][: values.top]:
                writer.writerow([name, run.dataset.class_names[label], f'{row[label]:.6f}'])
    if values.output:
        count = len(inputs.names)
        print(f'{count} predictions by {values.workdir} at step {run.step}: {values.output}')
    for problem in inputs.problems:
        print(f'error: {problem}', file=sys.stderr)
    return 1 if inputs.problems else 0


if __name__ == '__main__':
    cli.run(main, takes_files=True)

"""Predicts for files, as CSV: python experiments/predict.py --workdir=DIR a.png b.png > classes.csv

Writes one row per image, per WAV file, and per line of a text file, including empty lines. A folder
stands for all images, WAV files or texts below it. The data set itself is not read: the folder of
the run contains its input size, statistics and vocabulary. A row has the most probable class and
its probability, or for regression the values.

A run of segmentation writes a mask per image instead, in the size of the run's images:
python experiments/predict.py --workdir=DIR --output=masks photos
Pixels of masks/NAME.png are labels, and its palette has their colours.

Exit codes: 0 success; 1 some files or lines could not be read (their rows have no class, and
standard error has a line for each); 2 a flag or folder is wrong, or no input could be read.

    python experiments/predict.py --exported=model.stablehlo a.png      # without the run
"""

import contextlib
import csv
import pathlib
import sys

from absl import flags

from cnn_jax import cli, training
from cnn_jax.errors import UserError
from cnn_jax.export.exported import read_exported
from cnn_jax.output import write_whole
from cnn_jax.tables import printable
from cnn_jax.training.prediction import classify, predictor, write_masks

cli.define_path('workdir', '', 'folder of the run')
cli.define_path('exported', '', 'network that export.py wrote, instead of a run')
cli.define_path('output', '', 'CSV file (default: standard output); for masks, a folder')
flags.DEFINE_integer('top', 1, 'classes per file, the most probable first', lower_bound=1)
cli.define_checkpoint_flags()


def main(argv):
    values = flags.FLAGS
    with cli.bad_input():
        if not argv[1:]:
            raise UserError('no files: name images, WAV files, texts or folders after the flags')
        with contextlib.redirect_stdout(sys.stderr):  # warnings must not end up among the rows
            dataset, predict, step = load(values)
        found = classify(dataset, predict, argv[1:])
        if dataset.task == 'segmentation':
            count, errors = write_masks(values.output, found, dataset.num_classes)
            problems = len(errors)
            for error in errors:
                cli.report(error)
        else:
            if values.output and pathlib.Path(values.output).is_dir():
                raise UserError(f'output={values.output!r} is a folder; name a file in it')
            with open_output(values.output) as file:
                count, problems = write(file, found, dataset)
    if values.output:
        source = values.exported or values.workdir
        print(f'{count} inputs by {source} at step {step}: {values.output}')
    return 0 if not problems else 1 if problems < count else cli.EXIT_BAD_INPUT


def load(values):
    """Returns the data set, the function that predicts, and the step of the weights."""
    if bool(values.workdir) == bool(values.exported):
        raise UserError('give either --workdir=DIR or --exported=FILE')
    if not values.exported:
        run = training.load_run(
            values.workdir, step=cli.checkpoint(), averaged=values.averaged, examples=False
        )
        return run.dataset, predictor(run), run.step
    for name in ('step', 'averaged'):
        if values[name].present:
            raise UserError(f'{name}={values[name].value!r}: an exported network has one step')
    network = read_exported(values.exported)
    return network.dataset, network.predict, network.step


def open_output(path):
    # File names may contain arbitrary bytes, which are written unchanged.
    options = {'encoding': 'utf-8', 'errors': 'surrogateescape', 'newline': ''}
    if path:
        return write_whole(path, **options)
    sys.stdout.reconfigure(**options)
    return contextlib.nullcontext(sys.stdout)


def write(file, found, dataset):
    """Writes the rows; returns the number of inputs and the number that could not be read."""
    shown = printable if file.isatty() else str
    writer = csv.writer(file, lineterminator='\n')
    names, is_regression = dataset.class_names, dataset.task == 'regression'
    writer.writerow(['file', *(names if is_regression else ('class', 'probability'))])
    count = problems = 0
    for name, value in found:
        count += 1
        if isinstance(value, UserError):
            problems += 1
            cli.report(value)
            writer.writerow([shown(name), *[''] * (len(names) if is_regression else 2)])
            continue
        if is_regression:
            writer.writerow([shown(name), *(f'{number:.6g}' for number in value)])
            continue
        for label in value.argsort()[::-1][: flags.FLAGS.top]:
            writer.writerow([shown(name), shown(names[label]), f'{value[label]:.6f}'])
    return count, problems


if __name__ == '__main__':
    cli.run(main, takes_files=True)

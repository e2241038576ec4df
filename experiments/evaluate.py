"""Evaluates a run from its folder alone: python experiments/evaluate.py --workdir=DIR

Creates the model and the data set from DIR/config.json, and loads the parameters from the newest
intact checkpoint. Writes nothing to the folder.
"""

from absl import flags

from cnn_jax import cli, training
from cnn_jax.errors import UserError

cli.define_path('workdir', None, 'folder of the run', required=True)
flags.DEFINE_string('split', 'test', 'split to evaluate: train, validation or test')
cli.define_checkpoint_flags()
cli.define_path('data_dir', '', 'folder of prepared data sets (default: that of the run)')
flags.DEFINE_boolean('flips', False, 'average the logits of each image and its mirror image')
flags.DEFINE_integer('batch_size', 0, 'examples per step (0: as in training)', lower_bound=0)
flags.DEFINE_string('mesh', '', 'axes of the mesh of all devices, as for train.py')


def main(argv):
    del argv
    with cli.bad_input():
        values = flags.FLAGS
        run = training.load_run(
            values.workdir,
            step=cli.checkpoint(),
            averaged=values.averaged,
            data_dir=values.data_dir,
            mesh=values.mesh,
        )
        if values.split not in run.dataset.splits:
            raise UserError(
                f'split={values.split!r}: {run.dataset.name} has {", ".join(run.dataset.splits)}'
            )
        if values.flips and run.dataset.kind != 'image':
            raise UserError(f'flips: {run.dataset.name} is {run.dataset.kind}, not images')
    sums = run.evaluate(values.split, values.batch_size, flips=values.flips)
    if table := run.objective.table(sums, run.dataset.class_names):
        print(table)
    found = run.objective.summary(sums)
    listed = ', '.join(f'{name.replace("_", " ")} {value:.4f}' for name, value in found.items())
    print(f'{values.split} of {run.dataset.name} at step {run.step}: {listed} ({values.workdir})')


if __name__ == '__main__':
    cli.run(main)

"""Trains a model: python experiments/train.py --dataset=digits --model=lecture_cnn --workdir=DIR

or by a recipe: python experiments/train.py --flagfile=experiments/recipes/mnist1d_cnn.flags
Flags after the recipe's override it; --list_datasets shows what there is to train on. Run again
with the same flags, it goes on where it stopped, or says that it is finished.

Exit codes: 0 finished; 2 a wrong flag, data set or folder (one line says which); 75 stopped by
SIGTERM or SIGINT after saving, run again to go on; 76 the loss or a gradient was not finite; 77
another process of the run is gone, run all again to go on; 78 a checkpoint could not be written.
"""

import pathlib

from absl import flags

from cnn_jax import data, training
from cnn_jax.training import cli, processes
from cnn_jax.training.workdir import default_name

cli.define_flags(training.TrainConfig)
flags.DEFINE_string(
    'workdir', '', 'folder of the run (default: runs/<dataset>-<model>-<digest of the flags>)'
)
flags.DEFINE_boolean('list_datasets', False, 'show the data sets that --dataset knows, and end')
cli.define_process_flags()


def main(argv):
    del argv
    if flags.FLAGS.list_datasets:
        print(data.table())
        return
    with cli.bad_input():
        cli.join_processes()
        config = cli.from_flags(training.TrainConfig)
        path = flags.FLAGS.workdir or pathlib.Path('runs') / default_name(config)
        workdir = training.Workdir(path, config)
        if result := workdir.result():
            if processes.is_first():
                print(f'already finished at step {result["step"]}: {last_line(result, workdir)}')
            return
        job = training.make_job(config)
        lock = workdir.hold()
        if processes.is_first():
            workdir.describe(job.dataset)
    if processes.is_first():
        print(
            f'training {config.model} ({job.net.num_parameters:,} parameters) on {config.dataset} '
            f'({len(job.dataset.splits["train"]):,} examples), {job.total_steps} steps of '
            f'{config.batch_size}, on {job.devices}',
            flush=True,
        )
    with lock, cli.training_errors():
        state, result = training.train(job, workdir)
        if processes.is_first():
            training.draw(workdir, job, state, result)
            workdir.finish(result)
            print(last_line(result, workdir))


def last_line(result, workdir):
    averaged = ''
    if 'ema_test' in result:
        averaged = f' ({result["ema_test"]["accuracy"]:.4f} with averaged weights)'
    return f'test accuracy {result["test"]["accuracy"]:.4f}{averaged}, written to {workdir.path}'


if __name__ == '__main__':
    cli.run(main)

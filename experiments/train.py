"""Trains a model: python experiments/train.py --dataset=digits --model=lecture_cnn --workdir=DIR

or by a recipe: python experiments/train.py --flagfile=experiments/recipes/mnist1d_cnn.flags
Flags after the recipe's override it; --list_datasets shows what there is to train on. The same
command again resumes where the run stopped, or says that it is finished.

Exit codes: 0 finished; 2 a wrong flag, data set or folder (one line says which); 75 stopped by
SIGTERM or SIGINT after saving, run again to resume; 76 the loss or a gradient was not finite; 77
another process of the run is gone, run all again to resume; 78 a checkpoint could not be written.
"""

from absl import flags

from cnn_jax import cli, training

cli.define_flags(training.TrainConfig)
cli.define_workdir_flag()
cli.define_process_flags()
flags.DEFINE_boolean('list_datasets', False, 'show the data sets that --dataset knows, and end')


def main(argv):
    del argv
    if flags.FLAGS.list_datasets:
        from cnn_jax import data

        print(data.table())
        return
    cli.train(training.TrainConfig)


if __name__ == '__main__':
    cli.run(main)

"""Trains a model: python experiments/train.py --dataset=digits --model=lecture_cnn --workdir=DIR

or by a recipe: python experiments/train.py --flagfile=experiments/recipes/mnist1d_cnn.flags
Flags that follow the recipe override it. --list_datasets lists the available data sets. Repeating
the command resumes the run where it stopped, or reports that it is finished.

Exit codes: 0 finished; 2 a flag, data set or folder is wrong (one line says which); 75 stopped by
SIGTERM or SIGINT after saving (run again to resume); 76 the loss or a gradient was not finite;
77 another process of the run died (run all processes again to resume); 78 a checkpoint could not be
written.
"""

from absl import flags

from cnn_jax import cli, training

cli.define_flags(training.TrainConfig)
cli.define_workdir_flag()
cli.define_process_flags()
flags.DEFINE_boolean('list_datasets', False, 'list the data sets for --dataset, then exit')


def main(argv):
    del argv
    if flags.FLAGS.list_datasets:
        from cnn_jax import data

        print(data.table())
        return
    cli.train(training.TrainConfig)


if __name__ == '__main__':
    cli.run(main)

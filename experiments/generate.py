"""Trains a generative image model: python experiments/generate.py --model=vae --workdir=DIR

    python experiments/train.py --dataset=fashion_mnist --epochs=3 --workdir=runs/classifier
    python experiments/generate.py --model=dcgan --epochs=5 --classifier_workdir=runs/classifier

Repeating the command resumes the run where it stopped, or reports that it is finished. The script
writes the same files as train.py, and also samples, reconstructions and interpolations (pictures/).

With --model=dcgan the defaults are those of Radford et al. 2015: Adam, learning rate 2e-4, beta1
0.5, batches of 128, no decay. Exit codes are those of train.py.
"""

from absl import flags

from cnn_jax import cli
from cnn_jax.training.generation_config import DCGAN, GenerateConfig

cli.define_flags(GenerateConfig)
cli.define_workdir_flag()


def main(argv):
    del argv
    if flags.FLAGS.model == 'dcgan':
        for name, value in DCGAN.items():
            flags.FLAGS.set_default(name, value)
    cli.train(GenerateConfig)


if __name__ == '__main__':
    cli.run(main)

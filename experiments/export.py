"""Writes the weights of a run as safetensors: python experiments/export.py --workdir=DIR

Names are those of the model's parts ('layers/conv1/kernel'), kernels are (*window, in, out); the
metadata of the file hold the step and the configuration.
"""

import pathlib

from absl import flags

from cnn_jax import cli
from cnn_jax.training.weights import export

flags.DEFINE_string('workdir', None, 'folder of the run', required=True)
flags.DEFINE_string('output', '', 'the file (default: weights.safetensors in the workdir)')
flags.DEFINE_boolean('averaged', False, 'the moving average of the weights (--ema)')
flags.DEFINE_integer('step', -1, 'which checkpoint (-1: the newest)')


def main(argv):
    del argv
    values = flags.FLAGS
    with cli.bad_input():
        output = values.output or pathlib.Path(values.workdir) / 'weights.safetensors'
        step = None if values.step < 0 else values.step
        step = export(values.workdir, output, averaged=values.averaged, step=step)
    print(f'weights of step {step} of {values.workdir} written to {output}')


if __name__ == '__main__':
    cli.run(main)

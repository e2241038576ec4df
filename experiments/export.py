"""Writes the weights of a run as safetensors: python experiments/export.py --workdir=DIR

Tensors are named by their path in the model ('layers/conv1/kernel'), and kernels have the shape
(*window, in, out). The metadata of the file contain the step and the configuration.
"""

import pathlib

from absl import flags

from cnn_jax import cli
from cnn_jax.training.weights import export

cli.define_path('workdir', None, 'folder of the run', required=True)
cli.define_path('output', '', 'output file (default: weights.safetensors in the workdir)')
cli.define_checkpoint_flags()


def main(argv):
    del argv
    values = flags.FLAGS
    with cli.bad_input():
        output = values.output or pathlib.Path(values.workdir) / 'weights.safetensors'
        step = export(values.workdir, output, averaged=values.averaged, step=cli.checkpoint())
    print(f'weights of step {step} of {values.workdir} written to {output}')


if __name__ == '__main__':
    cli.run(main)

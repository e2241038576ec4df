"""Exports a trained network to run elsewhere: python experiments/export.py --workdir=DIR

    --format=safetensors   the weights alone (the default): weights.safetensors
    --format=stablehlo     the network, for plain JAX without this package: model.stablehlo
    --format=onnx          the network, for ONNX Runtime and others: model.onnx

The network takes inputs as stored in the data set, such as uint8 images, and returns float32
probabilities; docs/export.md describes the files. A network also gets a description (.json) and a
model card (.md). Exit codes: 0 success; 2 a flag or folder is wrong, or the network cannot be
exported like this; then nothing is written.
"""

import pathlib

from absl import flags

from cnn_jax import cli
from cnn_jax.errors import UserError
from cnn_jax.export import load_inference, onnx, safetensors, stablehlo
from cnn_jax.export.files import check_output, write_export
from cnn_jax.output import write_whole

FORMATS = {  # format -> default output, flags that only some formats have
    'safetensors': ('weights' + safetensors.SUFFIX, {'names'}),
    'stablehlo': ('model' + stablehlo.SUFFIX, {'part', 'platforms', 'image_size'}),
    'onnx': ('model' + onnx.SUFFIX, {'part', 'opset'}),
}
OPTIONS = set().union(*(options for _, options in FORMATS.values()))

cli.define_path('workdir', None, 'folder of the run', required=True)
cli.define_path('output', '', 'output file (default: in the workdir)')
flags.DEFINE_enum('format', 'safetensors', list(FORMATS), 'format of the file')
flags.DEFINE_enum('names', 'cnn_jax', safetensors.NAMES, 'safetensors: names and layout of tensors')
flags.DEFINE_enum(
    'part',
    '',
    ['', 'decode', 'encode', 'reconstruct'],
    'for runs of generate.py: codes to images, images to codes, or images to images (default: '
    'decode, or reconstruct for an autoencoder)',
)
flags.DEFINE_list('platforms', 'cpu,cuda,tpu', 'stablehlo: where the program can run')
flags.DEFINE_enum(
    'image_size', 'fixed', ['fixed', 'any'], 'sizes of images: that of the training, or any'
)
flags.DEFINE_integer('opset', onnx.OPSET, "onnx: version of ONNX's operators")
cli.define_checkpoint_flags()


def main(argv):
    del argv
    values = flags.FLAGS
    with cli.bad_input():
        name, options = FORMATS[values.format]
        for other in sorted(OPTIONS - options):
            if values[other].present:
                raise UserError(
                    f'{other}={values[other].value!r}: does not apply to format={values.format!r}'
                )
        output = check_output(values.output or pathlib.Path(values.workdir) / name)
        chosen = {'averaged': values.averaged, 'step': cli.checkpoint()}
        if values.format == 'safetensors':
            content, step = safetensors.export_weights(values.workdir, names=values.names, **chosen)
            with write_whole(output, 'wb') as file:
                file.write(content)
            what = 'weights'
        else:
            infer = load_inference(values.workdir, part=values.part, **chosen)
            if values.format == 'onnx':
                content, about = onnx.export_model(infer, opset=values.opset)
            else:
                content, about = stablehlo.export_program(
                    infer, platforms=values.platforms, any_size=values.image_size == 'any'
                )
            write_export(output, content, about)
            step, what = about['step'], about['name']
    print(f'{what} of step {step} of {values.workdir} written to {output}')


if __name__ == '__main__':
    cli.run(main)

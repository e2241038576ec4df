"""Exports registered models; prints how exact and how fast the exports are:

    python tools/export_table.py                                        # all models, small
    python tools/export_table.py --models=resnet18,vgg16 --image_size=224 --int8

One row per model: seconds for the export, kB of the file, largest difference from the model in JAX
relative to its largest output (weights are random), and the median latency in ms for batches of 1
and 32, of the model with this package's kernels and of each format. The runs alternate, so other
load affects all alike. Exit code 1 if a difference is above the bar, which is not for int8.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags
from flax import nnx

from cnn_jax import cli, models
from cnn_jax.errors import UserError
from cnn_jax.export import Inference, make_inference, onnx, stablehlo
from cnn_jax.tables import aligned
from cnn_jax.training.state import FunctionalModel
from tools.small_models import arguments, arrays

BAR = 1e-4
BATCHES = (1, 32)

# format -> (inference function, path without suffix) -> (path of the file, the function in it)
FORMATS: dict[str, Callable[[Inference, Path], tuple[Path, Callable]]] = {}

flags.DEFINE_list('models', '', 'names of models (default: all)')
flags.DEFINE_integer(
    'image_size', 0, 'height and width of images, for models of full size; 0: small models'
)
flags.DEFINE_bool('int8', False, "also quantise the ONNX file by ONNX Runtime's tool")
flags.DEFINE_integer('rounds', 20, 'calls per latency', lower_bound=1)


def format_stablehlo(infer, path):
    path = path.with_suffix(stablehlo.SUFFIX)
    path.write_bytes(stablehlo.export_program(infer, platforms=['cpu'])[0])
    return path, stablehlo.read_program(path)


def format_onnx(infer, path):
    path = path.with_suffix(onnx.SUFFIX)
    path.write_bytes(onnx.export_model(infer)[0])
    return path, onnx.read_model(path)


def format_int8(infer, path):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):
        def __init__(self):
            self.left = [{'inputs': inputs(infer.example, 8)}]

        def get_next(self):
            return self.left.pop() if self.left else None

    source, prepared, path = (path.with_suffix(f'{s}.onnx') for s in ('', '.prepared', '.int8'))
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(prepared, path, Batches(), per_channel=True)
    return path, onnx.read_model(path)


FORMATS['stablehlo'] = format_stablehlo
FORMATS['onnx'] = format_onnx


def make(name, image_size):
    """Returns a model with random weights and statistics, and the same as an inference function."""
    chosen = {'input_shape': (image_size, image_size, 3)} if image_size else arguments(name)
    net = FunctionalModel(lambda rngs: models.create(name, num_classes=10, rngs=rngs, **chosen))
    chance = np.random.default_rng(0)
    weights = arrays(net.params, chance), arrays(net.model_state, chance)
    model = net.merge(*weights)
    model.eval()
    dtype = np.dtype('int32' if model.kind == 'text' else 'float32')
    example = jax.ShapeDtypeStruct(model.input_shape, dtype)
    about = {'model': name, 'input': {'name': 'inputs'}, 'output': {'name': 'outputs'}}
    return model, make_inference(model, lambda model, x, maps: model(x), example, about)


def inputs(example, batch):
    chance, shape = np.random.default_rng(1), (batch, *example.shape)
    if example.dtype == np.int32:
        return chance.integers(0, 50, shape).astype(np.int32)
    return chance.normal(size=shape).astype(np.float32)


def latencies(functions, x, rounds):
    """Returns the median time of each function in ms; the functions alternate."""
    times = {name: [] for name in functions}
    for round_ in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function(x))
            if round_:  # the first compiles
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(found)) for name, found in times.items()}


def measure(name, folder, rounds, image_size):
    """Returns the row of a model, and its largest relative difference, but for int8."""
    model, infer = make(name, image_size)
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    functions, row, worst = {'here': lambda x: run(state, x)}, [name], 0.0
    x = inputs(infer.example, 4)
    expected = np.asarray(functions['here'](x))
    for kind, write in FORMATS.items():
        start = time.perf_counter()
        path, functions[kind] = write(infer, folder / name)
        seconds = time.perf_counter() - start
        error = np.abs(np.asarray(functions[kind](x)) - expected).max() / np.abs(expected).max()
        if kind != 'int8':
            worst = max(worst, float(error))
        row += [f'{seconds:.1f}', f'{path.stat().st_size / 1e3:,.0f}', f'{error:.0e}']
    for batch in BATCHES:
        found = latencies(functions, inputs(infer.example, batch), rounds)
        row += [f'{found[kind]:.2f}' for kind in functions]
    return row, worst


def main(argv):
    del argv
    values = flags.FLAGS
    with cli.bad_input():
        chosen = values.models or models.names()
        for name in chosen:
            if name not in models.names():
                raise UserError(f'models: unknown model {name!r}')
    if values.int8:
        FORMATS['int8'] = format_int8
    header = ['model']
    for kind in FORMATS:
        header += [f'{kind}: s', 'kB', 'difference']
    for batch in BATCHES:
        header += [f'{kind}, {batch}: ms' for kind in ('here', *FORMATS)]
    rows, worst = [header], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            row, error = measure(name, Path(folder), values.rounds, values.image_size)
            rows, worst = [*rows, row], max(worst, error)
            print('  '.join(row), file=sys.stderr, flush=True)
    print(aligned(rows))
    print(f'largest relative difference {worst:.1e}; the bar is {BAR:.0e}')
    return int(worst > BAR)


if __name__ == '__main__':
    cli.run(main)

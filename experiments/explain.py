"""Writes a web page that explains a trained network: python experiments/explain.py --workdir=DIR

The page shows the feature maps of a few inputs in every layer. For each element of a convolution's
output, it shows the window of the input, the kernel, the products and their sum, where the gradient
of the predicted class goes, and for some elements what every kernel of the package computes; for a
pool, which element won. It is one file that opens in any browser and needs no network access.

    python experiments/explain.py --workdir=DIR --examples=3,14      # of the test split
    python experiments/explain.py --workdir=DIR photo.png folder     # images, as predict.py takes

The run must be one that classifies images, with a model that is a chain of named layers.

Exit codes: 0 success; 1 some files could not be read (standard error has a line for each); 2 a flag
or the folder is wrong, no file could be read, or the network is too large.
"""

import dataclasses

from absl import flags

from cnn_jax import cli, training
from cnn_jax.errors import UserError
from cnn_jax.output import write_whole

cli.define_path('workdir', None, 'folder of the run', required=True)
flags.DEFINE_list('examples', ['0', '1', '2'], 'test examples to show, by number')
cli.define_path('data_dir', '', 'folder of prepared data sets (default: that of the run)')
cli.define_path('output', '', 'HTML file (default: <workdir>/explain.html)')
flags.DEFINE_float(
    'max_megabytes', 5, 'largest size of the page; a large network is shown in part', lower_bound=0
)
cli.define_checkpoint_flags()


def main(argv):
    f = flags.FLAGS
    with cli.bad_input():
        files = argv[1:]
        if files and f['examples'].present:
            raise UserError('give either --examples or files, not both')
        run = training.load_run(
            f.workdir,
            step=cli.checkpoint(),
            averaged=f.averaged,
            data_dir=f.data_dir,
            examples=not files,
        )
        check(run)
        raw, examples, problems = read(run, files)
        page, notes = make(run, raw, examples)
        output = f.output or f'{f.workdir}/explain.html'
        with write_whole(output, encoding='utf-8') as file:
            file.write(page)
    for note in notes:
        print(note)
    for problem in problems:
        cli.report(problem)
    print(f'{output}: {f.workdir} at step {run.step}, {len(page.encode()) / 1e6:.2f} MB')
    return 1 if problems else 0


def check(run):
    """Raises a UserError if the page cannot show this kind of run."""
    kind, task = run.dataset.kind, run.dataset.task
    if (kind, task) != ('image', 'classification'):
        raise UserError(
            f'workdir={flags.FLAGS.workdir!r} holds a network for {task} of {kind} data: the page '
            f'explains networks that classify images'
        )


def read(run, files):
    """Returns raw inputs (N, H, W, C), (name, label or None) of each, and what was unreadable."""
    import numpy as np

    from cnn_jax.training.prediction import read_inputs

    if files:
        found = read_inputs(run.dataset, files)
        return found.rows, [(name, None) for name in found.names], found.problems
    test, numbers = run.dataset.splits['test'], cli.integers('examples')
    if max(numbers) >= len(test):
        given = ','.join(flags.FLAGS.examples)
        raise UserError(f'examples={given!r}: must lie in [0, {len(test)})')
    names = [(f'test example {n}', int(test.labels[n])) for n in numbers]
    return test.inputs[np.array(numbers)], names, []


def make(run, raw, examples):
    """Returns the page, and a line for each thing that was left out."""
    import jax
    import numpy as np

    from cnn_jax.inspection import flops
    from cnn_jax.inspection.page import content, document
    from cnn_jax.training.job import make_net
    from cnn_jax.viz.tiles import displayable

    # The page's sums are of float32 numbers, whatever the network was trained in.
    net = make_net(dataclasses.replace(run.config, dtype='float32'), run.dataset)
    model = net.merge(run.params, run.model_state)
    model.eval()
    recorded = content.record(model, np.asarray(run.dataset.normalize(raw)))
    about = {
        'model': run.config.model,
        'dataset': run.dataset.name,
        'step': run.step,
        'parameters': net.num_parameters,
        'dtype': run.config.dtype,
        'jax': f'JAX {jax.__version__} on {jax.default_backend()}',
        'reading': reading(run.dataset),
        'classes': list(run.dataset.class_names),
        'examples': [
            {'name': name, 'label': label, 'image': np.uint8(255 * displayable(image))}
            for image, (name, label) in zip(raw, examples, strict=True)
        ],
    }
    rows = flops.summary(model, model.input_shape)
    return document.fitting(recorded, rows, about, int(1e6 * flags.FLAGS.max_megabytes))


def reading(dataset):
    """Returns in words how `Dataset.normalize` makes numbers of pixels."""
    scaled = 'divided by 255' if dataset.splits['train'].inputs.dtype == 'uint8' else 'as they are'
    mean, std = (', '.join(f'{v:.4g}' for v in values) for values in (dataset.mean, dataset.std))
    if not mean:
        return f'The network reads the pixels {scaled}.'
    return f'The network reads the pixels {scaled}, minus {mean}, divided by {std}.'


if __name__ == '__main__':
    cli.run(main, takes_files=True)

"""Prints a table of a model's layers, and draws what a trained model has learned.

    python experiments/inspect_model.py --model=vgg16 --input_shape=224,224,3 --num_classes=1000
    python experiments/inspect_model.py --workdir=runs/digits-lecture_cnn-...

The table (also written as table.json) has one row per layer: output, window, stride, padding,
receptive field, parameters, multiply-adds, bytes, arithmetic intensity, and the kernel that runs
it. For the folder of a run, the script also draws filters (for signals with their spectra, for
texts as the n-grams that they respond to most), feature maps at several depths, the confusion
matrix and the most confident mistakes. For images it adds saliency and Grad-CAM, the patches that
activate a layer most, and receptive fields drawn on an input. Runs of other tasks than
classification have filters and feature maps alone.

Exit codes: 0 success; 2 a flag is wrong, the model is unknown, or the folder has no checkpoint or
belongs to another model.
"""

import json
import pathlib

from absl import flags

from cnn_jax import cli
from cnn_jax.errors import UserError

flags.DEFINE_string('model', '', 'model, by name; with --workdir, it must be the model of the run')
flags.DEFINE_list('input_shape', [], 'shape of one example (default: 32,32,3)')
flags.DEFINE_integer('num_classes', 10, 'number of logits', lower_bound=1)
flags.DEFINE_integer('batch_size', 1, 'batch size, for bytes, intensity and kernels', lower_bound=1)
cli.define_path('workdir', '', 'folder of a training run')
cli.define_path('data_dir', '', 'folder of prepared data sets (default: that of the run)')
flags.DEFINE_list('images', ['0', '1', '2', '3', '4', '5'], 'test examples to draw, by number')
flags.DEFINE_list('layers', [], 'layers to draw (default: up to six, from first to last)')
flags.DEFINE_integer('search', 1000, 'test examples searched for patches and mistakes', 1)
cli.define_path('output', '', 'output folder (default: runs/inspect/<model>, or <workdir>/inspect)')

MAX_LAYERS = 6


def main(argv):
    del argv
    f = flags.FLAGS
    with cli.bad_input():
        if not (f.model or f.workdir):
            raise UserError('give --model, or --workdir of a training run')
        from cnn_jax.inspection import layer_table

        run = _load_run() if f.workdir else None
        model = run.net.model if run else _abstract_model()
        output = pathlib.Path(
            f.output or (f'{f.workdir}/inspect' if run else f'runs/inspect/{f.model}')
        )
        subject = _subject(run) if run else None
        table = layer_table.rows(model, model.input_shape, f.batch_size)
        output.mkdir(parents=True, exist_ok=True)
    print(layer_table.text(table, f.batch_size))
    (output / 'table.json').write_text(json.dumps(layer_table.as_dicts(table), indent=1) + '\n')
    drawn = _draw(run, subject, output) if run else []
    parameters = sum(row.layer.parameters for row in table)
    macs = sum(row.layer.macs for row in table)
    print(
        f'{len(table)} layers, {parameters:,} parameters, {macs:,} multiply-adds an example; '
        f'table.json{"".join(f", {name}" for name in drawn)} written to {output}'
    )


def _abstract_model():
    from flax import nnx

    from cnn_jax import models

    f = flags.FLAGS
    shape = cli.integers('input_shape', at_least=1) if f.input_shape else (32, 32, 3)
    return nnx.eval_shape(
        lambda: models.create(
            f.model, input_shape=shape, num_classes=f.num_classes, rngs=nnx.Rngs(0)
        )
    )


def _load_run():
    from cnn_jax import training

    f = flags.FLAGS
    run = training.load_run(f.workdir, data_dir=f.data_dir)
    if f.model and f.model != run.config.model:
        raise UserError(f'workdir={f.workdir!r} holds {run.config.model}, not model={f.model}')
    return run


def _subject(run):
    """Returns the model with its parameters, the test split, and the numbers of images to draw."""
    from cnn_jax.inspection import attribution

    f = flags.FLAGS
    model = run.net.merge(run.params, run.model_state)
    model.eval()
    test = run.dataset.splits['test']
    numbers = cli.integers('images')
    if max(numbers) >= len(test):
        raise UserError(f'images={",".join(f.images)!r}: must lie in [0, {len(test)})')
    attribution.unwrap(model, run.dataset.normalize(test.inputs[:1]))
    names = attribution.layer_names(model)
    if unknown := set(f.layers) - set(names):
        raise UserError(f'layers: {min(unknown)!r} is not one of {", ".join(names)}')
    return model, test, numbers


def _draw(run, subject, output):
    """Writes the pictures that suit the kind of data; returns their file names."""
    import numpy as np

    from cnn_jax.inspection import attribution, pictures
    from cnn_jax.training import report
    from cnn_jax.viz import runs

    model, test, numbers = subject
    data, f = run.dataset, flags.FLAGS
    drawn = []

    def path(name):
        drawn.append(name)
        return output / name

    _draw_filters(run, model, path)
    raw = test.inputs[np.array(numbers)]
    inputs = data.normalize(raw)
    maps = report.layer_results(run.net, data, run.params, run.model_state, raw)
    maps = {name: m for name, m in maps.items() if '.' not in name}
    shown = _texts(raw, data) if data.kind == 'text' else raw
    runs.feature_maps(
        {n: maps[n] for n in _chosen(f.layers, maps)}, shown, path('feature_maps.png')
    )
    if data.task != 'classification':
        return drawn  # what follows is about the class of an example

    found = run.evaluate('test')
    runs.confusion_matrix(
        found['confusion'], data.class_names, path('confusion_matrix.png'),
        title=f'{data.name}, test',
    )  # fmt: skip
    many = test.inputs[: f.search]
    logits = _batched(lambda x: model(data.normalize(x)), many)
    wrong = attribution.mistakes(logits, test.labels[: f.search], 18)
    if wrong and data.kind != 'text':
        from cnn_jax.viz.figures import plain

        name = [plain(each) for each in data.class_names]
        pictures.examples(
            [test.inputs[n] for n, _, _ in wrong],
            [f'{name[test.labels[n]]} → {name[c]}\n{100 * p:.0f} % sure' for n, c, p in wrong],
            path('mistakes.png'),
            title=f'true → predicted: the surest mistakes in {len(many)} test examples',
        )
    if data.kind == 'image':
        _draw_attention(model, data, raw, inputs, test, numbers, maps, path)
        _draw_fields(model, data, raw, inputs, many, maps, path)
    return drawn


def _draw_filters(run, model, path):
    """Draws first-layer filters: signals with their spectra, texts as n-grams."""
    import numpy as np

    from cnn_jax.inspection import learned_filters
    from cnn_jax.viz import runs

    data, kind = run.dataset, run.dataset.kind
    kernels = [n for n, p in run.params.items() if n.endswith('kernel') and p.ndim >= 3]
    if kind == 'text':
        _draw_ngrams(model, data, path('ngrams.png'))
    elif kernels:
        first = np.asarray(run.params[kernels[0]])
        if kind == 'audio':
            learned_filters.draw_spectra(
                first, data.meta.get('sample_rate'), path('filters_1d.png'),
                title=f'{kernels[0]}, {data.name}',
            )  # fmt: skip
        else:
            runs.filters(first, path('filters.png'), title=kernels[0])


def _draw_ngrams(model, data, path):
    import numpy as np

    from cnn_jax.data.text import PAD
    from cnn_jax.inspection import learned_filters

    ids = data.splits['train'].inputs[: flags.FLAGS.search]
    words = ['·' if word == PAD else word for word in data.meta['vocabulary']]
    found = {}
    for window in model.windows:
        name = f'conv{window}'
        responses = _batched(lambda x, name=name: _recorded(model, x)[name], ids)
        found[name] = learned_filters.best_ngrams(responses, ids, words, window)
    voters = learned_filters.voters(found, np.asarray(model.logits.kernel[...]))
    learned_filters.draw_ngrams(
        voters, data.class_names, path,
        title=f'{data.name}: filters that speak most for each class, and the n-grams of '
        f'{len(ids)} training texts that they respond to most (· padding)',
    )  # fmt: skip


def _texts(ids, data):
    """Returns token ids as words, without the padding."""
    from cnn_jax.data.text import PAD

    words = data.meta['vocabulary']
    return [' '.join(words[i] for i in row if words[i] != PAD) for row in ids]


def _recorded(model, inputs):
    maps = {}
    model(inputs, intermediates=maps)
    return maps


def _chosen(wanted, names):
    """Returns the wanted names, or at most MAX_LAYERS evenly spaced from first to last."""
    import numpy as np

    names = list(names)
    if wanted:
        return [n for n in names if n in wanted]
    keep = sorted(set(np.linspace(0, len(names) - 1, MAX_LAYERS).round().astype(int)))
    return [names[i] for i in keep]


def _draw_attention(model, data, raw, inputs, test, numbers, maps, path):
    import numpy as np

    from cnn_jax.inspection import attribution, pictures
    from cnn_jax.viz.figures import plain

    classes = np.asarray(model(inputs)).argmax(1)
    spatial = attribution.spatial_layers(model, inputs)
    saliency = attribution.saliency(model, inputs, classes)
    # Prefer maps after an activation: a positive Grad-CAM weight means nothing where values may be
    # negative.
    active = [n for n in spatial if maps[n].min() >= 0] or spatial
    layers = [active[len(active) // 2], active[-1]] if active else []
    cams = {n: attribution.grad_cam(model, inputs, classes, n) for n in dict.fromkeys(layers)}
    titles = [
        f'#{n} {plain(data.class_names[test.labels[n]])}\n→ {plain(data.class_names[c])}'
        for n, c in zip(numbers, classes, strict=True)
    ]
    pictures.attention(raw, saliency, cams, titles, path('attention.png'))


def _draw_fields(model, data, raw, inputs, many, maps, path):
    from cnn_jax.inspection import attribution, layer_table, pictures

    spatial = attribution.spatial_layers(model, inputs)
    known = layer_table.receptive_fields(model, model.input_shape)
    fields = {n: known[n] for n in spatial if n in known}
    fields = {n: fields[n] for n in _chosen(flags.FLAGS.layers, fields)} if fields else {}
    if not fields:
        return
    effective = {n: attribution.effective_field(model, inputs, n) for n in fields}
    middle = {n: tuple(s // 2 for s in maps[n].shape[1:-1]) for n in fields}
    pictures.receptive_fields(raw[0], fields, effective, middle, path('receptive_fields.png'))
    layer = [n for n in fields if 'conv' in n][-1:] or list(fields)[-1:]
    front, _ = attribution.split(model, layer[0])
    found = _batched(lambda x: front(data.normalize(x)), many)
    patches = attribution.best_patches(
        found, fields[layer[0]], many.shape[1:3], channels=range(min(8, found.shape[-1]))
    )
    title = f'{layer[0]}: the patches (its receptive field) that activate a channel most'
    pictures.patches(many, patches, path('patches.png'), title=title)


def _batched(function, inputs, batch=250):
    import jax
    import numpy as np

    run = jax.jit(function)
    parts = [run(inputs[i : i + batch]) for i in range(0, len(inputs), batch)]
    return np.concatenate([np.asarray(p) for p in parts])


if __name__ == '__main__':
    cli.run(main)

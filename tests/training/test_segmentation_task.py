"""The task of segmentation from the data to the masks that are written for new images."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import PIL.Image
import pytest
from flax import nnx

from cnn_jax import models
from cnn_jax.data import Dataset, Split, load
from cnn_jax.errors import UserError
from cnn_jax.training import TrainConfig, Workdir, load_run, make_job, prediction, train
from cnn_jax.training.devices import Devices
from cnn_jax.training.evaluation import SplitEvaluator
from cnn_jax.training.job import Job, batch_shapes, common_parts, task_parts
from cnn_jax.training.objectives import Segmentation
from cnn_jax.training.state import FunctionalModel
from cnn_jax.training.workdir import read_config

CONFIG = TrainConfig(
    dataset='digit_scenes:count=40,size=16,objects=2',
    model='unet',
    model_options='width=2,depth=1,batch_norm=True',
    batch_size=8,
    steps=4,
    augment='crop:1,flip,cutout:2',
    eval_every='2steps',
    checkpoint_every='2steps',
)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Returns the state, the result, the job and the folder of a finished run."""
    folder = tmp_path_factory.mktemp('masks') / 'run'
    workdir = Workdir(folder, CONFIG)
    job = make_job(CONFIG)
    with workdir.hold(job.dataset.task):
        state, result = train(job, workdir)
        workdir.finish(result)
        return state, result, job, workdir


def test_a_run_is_evaluated(finished):
    _, result, _, workdir = finished
    folder = workdir.path
    found = json.loads((folder / 'result.json').read_text())
    written = json.loads((folder / 'config.json').read_text())
    assert written['task'] == 'segmentation' and read_config(folder) == CONFIG
    # Earlier versions wrote the name of the class for every task.
    assert TrainConfig.from_json(json.dumps(written | {'task': 'classification'})) == CONFIG
    assert found['metric'] == 'miou' and len(found['test']['iou']) == 11
    dataset = load(CONFIG.dataset)
    assert np.sum(found['test']['pixels']) == dataset.splits['test'].labels.size
    again = load_run(folder)
    assert again.objective.summary(again.evaluate('test', batch_size=3)) == pytest.approx(
        {name: result['test'][name] for name in ('loss', 'pixel_accuracy', 'miou', 'mean_dice')}
    )
    assert 'background' in again.objective.table(again.evaluate('test'), dataset.class_names)


@pytest.mark.slow
def test_a_run_is_drawn(finished):
    state, result, job, workdir = finished
    job.draw(workdir, state, result)
    pictures = {path.name for path in workdir.pictures.iterdir()}
    assert pictures >= {'masks.png', 'learning_curves.png', 'feature_maps.png'}


def test_a_resumed_run_is_the_same_to_the_bit(finished, tmp_path):
    state, _, _, workdir = finished
    copy = shutil.copytree(workdir.path, tmp_path / 'run')
    shutil.rmtree(copy / 'checkpoints' / '4')
    (copy / 'result.json').unlink()
    workdir = Workdir(copy, CONFIG)
    with workdir.hold():
        resumed, _ = train(make_job(CONFIG), workdir)
    jax.tree.map(np.testing.assert_array_equal, resumed, state)


def test_masks_of_new_images_are_written(finished, tmp_path):
    folder = finished[3].path
    split = load(CONFIG.dataset).splits['test']
    (tmp_path / 'photos' / 'sub').mkdir(parents=True)
    for name, image in zip(('a', 'b', 'sub/a'), split.inputs, strict=False):
        PIL.Image.fromarray(image[..., 0]).save(tmp_path / 'photos' / f'{name}.png')
    (tmp_path / 'photos' / 'c.png').write_bytes(b'no image')
    run = load_run(folder, examples=False)
    found = prediction.classify(run.dataset, prediction.predictor(run), [str(tmp_path / 'photos')])
    count, errors = prediction.write_masks(tmp_path / 'masks', found, run.dataset.num_classes)
    assert count == 4 and len(errors) == 2
    assert 'c.png: not an image' in str(errors[0])
    assert 'sub/a.png: a.png is the mask of' in str(errors[1])
    with pytest.raises(UserError, match="output=''; it must be a folder for the masks"):
        prediction.write_masks('', (), 2)
    logits = jax.jit(run.net.predict)(
        run.params, run.model_state, run.dataset.normalize(split.inputs[:2])
    )
    for name, expected in zip('ab', np.argmax(logits, -1), strict=True):
        with PIL.Image.open(tmp_path / 'masks' / f'{name}.png') as mask:
            assert mask.mode == 'P'
            np.testing.assert_array_equal(np.asarray(mask), expected)


class Reader(nnx.Module):
    """Reads the class of a pixel from its value, which is 1 + class."""

    def __init__(self, rngs):
        self.scale = nnx.Param(jax.numpy.ones(()))

    def __call__(self, x):
        return 50 * self.scale * jax.nn.one_hot((x[..., 0] * 255).round().astype(int) - 1, 3)


def values(n=8):
    labels = np.random.default_rng(0).integers(0, 3, (n, 6, 4)).astype(np.uint8)
    split = Split((labels + 1)[..., None], labels)
    return Dataset(
        'values', 'image', {'train': split, 'test': split}, tuple('abc'), task='segmentation'
    )


def test_labels_of_metrics_move_with_their_pixels():
    config = TrainConfig(steps=2, batch_size=8, augment='crop:2,flip')
    dataset, net = values(), FunctionalModel(Reader)
    parts = task_parts(config, dataset, net)
    job = Job(**parts, **common_parts(config, dataset, Devices.all(jax.devices()[:1])))
    split = dataset.splits['train']
    batch = {'inputs': split.inputs, 'labels': split.labels}
    _, metrics = jax.jit(job.step())(job.init(), batch)
    assert metrics['pixel_accuracy'] == 1 and metrics['loss'] < 1e-6


@pytest.mark.parametrize('flips', [False, True])
def test_mirrored_logits_are_mirrored_back(flips):
    dataset, net = values(), FunctionalModel(Reader)
    evaluator = SplitEvaluator(
        net,
        Segmentation(3),
        dataset,
        dataset.splits['test'],
        Devices.all(jax.devices()[:1]),
        3,
        flips=flips,
    )
    found = Segmentation(3).summary(evaluator(*net.init(0)))
    assert found['pixel_accuracy'] == found['miou'] == found['mean_dice'] == 1


def test_every_model_of_the_task_fits_scenes():
    options = {'unet': 'width=2', 'fcn_resnet18': 'width=4', 'fcn_resnet50': 'width=4'}
    assert set(options) == set(models.names('segmentation'))
    for model, text in options.items():
        config = dataclasses.replace(CONFIG, model=model, model_options=text)
        job = make_job(config)
        batch = batch_shapes(job.dataset, 8)
        _, metrics = jax.eval_shape(job.step(), job.state_like(), batch)
        assert set(metrics) >= {'loss', 'pixel_accuracy'}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'model': 'lecture_cnn', 'model_options': ''},
            r"model='lecture_cnn': its output has shape \(N, 11\); must be \(N, 16, 16, 11\)",
        ),
        ({'label_smoothing': 0.1}, 'label_smoothing=0.1: does not apply to masks'),
        ({'augment': 'mixup'}, "augment='mixup': mixup does not apply to masks"),
        ({'dataset': 'digits'}, r"model='unet': its output has shape \(N, 8, 8, 10\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make_job(dataclasses.replace(CONFIG, **changes))

"""Runs generate.py as a user does, on scikit-learn's digits, and tests what it refuses."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from matplotlib.image import imread

from cnn_jax import training
from cnn_jax.training import frechet
from cnn_jax.training.devices import Devices
from cnn_jax.training.generation_config import GenerateConfig
from cnn_jax.training.generation_job import make_generation_job
from cnn_jax.training.prediction import predictions
from cnn_jax.viz import samples
from tools.scripts import run, start

GAN = {
    'dataset': 'digits',
    'model': 'dcgan',
    'model_options': 'latent=4,width=2',
    'steps': 4,
    'eval_every': '4steps',
    'checkpoint_every': '2steps',
    'log_every': 1,
}
VAE = GAN | {'model': 'vae', 'model_options': 'features=(2,),hidden=4'}


def as_flags(values, **others):
    return [f'--{name}={value}' for name, value in (values | others).items()]


def on_one_device(job):
    return dataclasses.replace(job, devices=Devices.all(jax.devices()[:1]))


def fit(values, folder):
    """Trains in this process and returns the state and the result."""
    config = GenerateConfig(**values)
    workdir = training.Workdir(folder, config)
    with workdir.hold():
        job = on_one_device(make_generation_job(config, workdir.path))
        state, result = training.train(job, workdir)
        workdir.finish(result)
    return state, result


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """The run folder of a briefly trained classifier of digits, and its result."""
    folder = tmp_path_factory.mktemp('classifier') / 'run'
    config = training.TrainConfig(
        model_options='features=(4,),hidden=()', epochs=2.0, learning_rate=0.02
    )
    workdir = training.Workdir(folder, config)
    with workdir.hold():
        _, result = training.train(on_one_device(training.make_job(config)), workdir)
    return folder, result


@pytest.fixture(scope='module')
def vae(tmp_path_factory):
    """The folder of a finished run, its state and its result."""
    folder = tmp_path_factory.mktemp('vae') / 'run'
    return folder, *fit(VAE, folder)


@pytest.fixture(scope='module')
def judged_gan(classifier, tmp_path_factory):
    """The same for a GAN whose images are rated by a classifier."""
    folder = tmp_path_factory.mktemp('gan') / 'run'
    return folder, *fit(GAN | {'classifier_workdir': str(classifier[0])}, folder)


@pytest.mark.parametrize('name', ['vae', pytest.param('judged_gan', marks=pytest.mark.slow)])
def test_resumed_to_the_same_bits(name, tmp_path, capsys, request):
    folder, state, result = request.getfixturevalue(name)
    copy = tmp_path / 'run'
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / 'checkpoints' / '4')
    shutil.rmtree(copy / 'grids')
    again = fit(dataclasses.asdict(training.read_config(folder)), copy)
    assert 'at step 2 of 4' in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, again[0], state)
    assert again[1] == result and int(state.step) == 4
    files = sorted(file.name for file in (copy / 'grids').iterdir())
    assert files == ['final.npz', 'step-00000004.npz']
    for file in files:
        mine, other = np.load(folder / 'grids' / file), np.load(copy / 'grids' / file)
        for name in mine.files:
            np.testing.assert_array_equal(mine[name], other[name])


def check_drawn(folder, names):
    drawn = {path.name for path in (folder / 'pictures').iterdir()}
    assert drawn == {'samples-00000004.png', 'interpolations.png', 'progress.png'} | names
    assert all(imread(folder / 'pictures' / name).std() > 0.01 for name in drawn)


def test_numbers_and_pictures_of_a_vae(vae):
    folder, _, result = vae
    check_drawn(folder, {'reconstructions-00000004.png'})
    test = result['test']
    np.testing.assert_allclose(test['loss'], test['reconstruction'] + test['divergence'])
    assert 10 < test['loss'] < 64 * 0.8 and 'Bernoulli' in result['likelihood']
    assert 0 < test['squared_error'] < 0.3 and 'samples' not in result
    assert [row['step'] for row in training.read_metrics(folder)] == [1, 2, 3, 4, 4]
    step = np.load(folder / 'grids' / 'step-00000004.npz')
    assert step['samples'].shape == (64, 8, 8, 1) and step['samples'].dtype == np.uint8
    assert np.load(folder / 'grids' / 'final.npz')['interpolations'].shape == (5, 11, 8, 8, 1)


@pytest.mark.slow
def test_numbers_and_pictures_of_a_gan(judged_gan, classifier):
    folder, _, result = judged_gan
    check_drawn(folder, {'classes.png'})
    assert 0 < result['test']['real'] < 1
    images, made = result['images'], result['samples']
    np.testing.assert_allclose(images['accuracy'], classifier[1]['test']['accuracy'])
    assert sum(images['classes']) == sum(made['classes']) == 355
    assert 0.1 < made['confidence'] <= 1 and 0 <= made['entropy'] <= np.log(10)
    assert 0 < images['frechet_distance'] < made['frechet_distance']


def test_features_are_what_the_last_layer_takes(classifier):
    run = training.load_run(classifier[0])
    images = run.dataset.splits['test'].inputs[:70]  # more than a batch
    found, predicted = frechet.features_and_predictions(run)(images)
    assert found.shape == (70, frechet.num_features(run)) == (70, 64)
    logits = found @ run.params['layers/logits/kernel'] + run.params['layers/logits/bias']
    np.testing.assert_allclose(jax.nn.softmax(logits), predicted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(predicted, predictions(run, images), rtol=1e-5)


def test_distances_need_more_images_than_features(classifier, tmp_path):
    config = GenerateConfig(**VAE | {'classifier_workdir': str(classifier[0]), 'validation': 0.03})
    with pytest.raises(ValueError, match='classifier_workdir=.*: 43 images are too few for .* 64'):
        make_generation_job(config, tmp_path)


def test_samples_from_a_mixture(tmp_path):
    """The samples follow the mixture, and resuming draws the same ones."""
    values = VAE | {'mixture': 2, 'ema': 0.5, 'model_options': 'hidden=4,likelihood=normal'}
    _, result = fit(values, tmp_path / 'run')
    assert 'normal pixels' in result['likelihood']
    grid = tmp_path / 'run' / 'grids' / 'step-00000004.npz'
    drawn = np.load(grid)['samples']
    shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '4')
    assert fit(values, tmp_path / 'run')[1] == result
    np.testing.assert_array_equal(np.load(grid)['samples'], drawn)


def test_an_autoencoder_has_no_distribution_to_draw_from(tmp_path):
    job = make_generation_job(GenerateConfig(dataset='digits', model='autoencoder'), tmp_path)
    assert job.encodes and not job.draws


def test_overview(vae, tmp_path):
    figure = samples.overview([vae[0], vae[0]], tmp_path / 'overview.png')
    assert len(figure.axes) == 6 and imread(tmp_path / 'overview.png').std() > 0.01
    with pytest.raises(ValueError, match='holds no finished run'):
        samples.overview([tmp_path])


@pytest.mark.parametrize(
    'values, said',
    [
        ({'dataset': 'mnist1d'}, 'must be images, not audio'),
        ({'model_options': 'depth=3'}, 'vae has no option depth; it has features'),
        (
            {'model': 'dcgan', 'model_options': 'hidden=3'},
            'dcgan has no option hidden; it has',
        ),
        ({'model': 'resnet18'}, "model='resnet18': must be one of autoencoder, vae, dcgan"),
        ({'batch_size': 2048}, 'batch_size=2048 is larger than the number of examples, 1442'),
        ({'classifier_workdir': '/no/run'}, 'classifier_workdir: .*holds no config.json'),
        ({'model_options': 'features=(2,2,2,2)'}, 'must be multiples of 16'),
        ({'model_options': 'likelihood=poisson'}, 'must be bernoulli or normal'),
        ({'model': 'dcgan', 'mixture': 2}, 'mixture=2: only for model=vae'),
        ({'mixture': 1443}, 'mixture=1443: must be at most the number of training images, 1442'),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_before_anything_runs(values, said, tmp_path, request):
    values = {'dataset': 'digits'} | values
    if values['dataset'] == 'mnist1d':
        values['data_dir'] = str(request.getfixturevalue('shared_data'))
    with pytest.raises(ValueError, match=said) as caught:
        make_generation_job(GenerateConfig(**values), tmp_path)
    assert '\n' not in str(caught.value)


def test_runs_of_different_tasks_keep_to_their_folders(vae, tmp_path):
    folder, *_ = vae
    with pytest.raises(training.WorkdirError, match='run of generation, not of classification'):
        training.Workdir(folder, training.TrainConfig())
    with pytest.raises(training.WorkdirError, match='holds a run of generation'):
        training.load_run(folder)
    with pytest.raises(ValueError, match='classifier_workdir: .*holds a run of generation'):
        make_generation_job(GenerateConfig(**VAE, classifier_workdir=str(folder)), tmp_path)
    with pytest.raises(training.WorkdirError, match="model='vae' in the run, 'autoencoder' now"):
        training.Workdir(folder, GenerateConfig(**VAE | {'model': 'autoencoder'}))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(training.NotFiniteError, match='step [12]: .*the loss is'):
        fit(VAE | {'learning_rate': 1e30, 'optimizer': 'sgd'}, tmp_path / 'run')


@pytest.mark.smoke
def test_the_script_says_what_is_finished_and_what_is_wrong(vae):
    folder, *_ = vae
    flags = f'--workdir={folder}', *as_flags(VAE)
    processes = [
        start('generate.py', *flags),
        start('generate.py', '--model=dcgan', f'--workdir={folder}', '--beta1=0.6'),
    ]
    said = [process.communicate() for process in processes]
    assert [p.returncode for p in processes] == [0, 2]
    numbers = (
        r'test ELBO -\d+\.\d\d nats per image \(reconstruction -\d+\.\d\d, divergence \d+\.\d\d\)'
    )
    assert re.match(f'already finished at step 4: {numbers}, mean squared error 0', said[0][0])
    assert said[0][0].endswith(f'written to {folder}\n')
    out, problem = said[1]
    assert out == '' and problem.startswith('error: ') and problem.count('\n') == 1
    # The settings of the paper, except where flags change them.
    assert 'learning_rate=0.001 in the run, 0.0002 now' in problem
    assert 'batch_size=64 in the run, 128 now' in problem
    assert 'beta1=0.9 in the run, 0.6 now' in problem


@pytest.mark.slow
def test_a_classifier_can_come_after_the_training(classifier, tmp_path):
    flags = [*as_flags(VAE), f'--workdir={tmp_path / "run"}']
    last = run('generate.py', *flags).splitlines()[-1]
    assert 'the images were not rated' in last
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    flags += [f'--classifier_workdir={classifier[0]}']
    assert 'samples: confidence 0.' in run('generate.py', *flags).splitlines()[-1]
    judged = json.loads((tmp_path / 'run' / 'result.json').read_text())
    assert judged['test'] == result['test'] and 'samples' not in result
    assert judged['reconstructions']['accuracy'] < judged['images']['accuracy']
    assert run('generate.py', *flags).startswith('already finished at step 4')

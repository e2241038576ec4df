"""A run is tied to its data: other data are refused before anything is written."""

import json
import re
import shutil

import numpy as np
import PIL.Image
import pytest

from cnn_jax import data, training
from cnn_jax.training.workdir import default_name
from tools.scripts import errors, run

FLAGS = (
    '--dataset=image_folder:test=0.5', '--model=lecture_cnn', '--epochs=2', '--batch_size=8',
    '--model_options=features=(4,),hidden=(8,)',
)  # fmt: skip


def photographs(folder, classes=('cat', 'dog'), count=12, shift=0, seed=0):
    """Writes images of noise, brighter for the second class, as <folder>/<class>/<number>.png."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(0, 90, (8, 8, 3)) + 100 * (label > 0)
            image = np.clip(image - shift, 0, 255).astype(np.uint8)
            PIL.Image.fromarray(image).save(folder / name / f'{i}.png')
    return folder


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder of images and the folder of a finished run on it."""
    folder = tmp_path_factory.mktemp('data')
    photographs(folder / 'a')
    run('train.py', *FLAGS, f'--data_dir={folder / "a"}', f'--workdir={folder / "run"}')
    return folder / 'a', folder / 'run'


@pytest.mark.parametrize(
    'change, message',
    [
        ({'classes': ('ant', 'dog')}, r'classes \(cat, dog\) in the run, \(ant, dog\) now'),
        ({'count': 13}, 'split test with 12 examples in the run, 13 now'),
        ({'seed': 1}, 'split test with different examples'),
    ],
)
@pytest.mark.parametrize('is_finished', [True, False])
def test_other_data_are_refused(trained, tmp_path, change, message, is_finished):
    _, workdir = trained
    copy = shutil.copytree(workdir, tmp_path / 'run')
    if not is_finished:
        (copy / 'result.json').unlink()
    before = {path: path.stat().st_mtime_ns for path in copy.rglob('*')}
    other = photographs(tmp_path / 'b', **change)
    (line,) = errors('train.py', (*FLAGS, f'--data_dir={other}', f'--workdir={copy}'))
    assert re.search(message, line) and 'use another workdir' in line
    assert {path: path.stat().st_mtime_ns for path in copy.rglob('*')} == before


def test_the_same_data_elsewhere_are_the_same_data(trained, tmp_path):
    folder, workdir = trained
    moved = shutil.copytree(folder, tmp_path / 'moved')
    shown = run('train.py', *FLAGS, f'--data_dir={moved}', f'--workdir={workdir}')
    assert 'test accuracy' in shown.splitlines()[-1]


def test_folders_have_default_names_of_their_own():
    def name(dataset, data_dir):
        return default_name(training.TrainConfig(dataset=dataset, data_dir=data_dir))

    assert name('image_folder:size=8', 'a') != name('image_folder:size=8', 'b')
    assert name('digits', 'a') == name('digits', 'b')  # one data set, wherever it is stored


def test_other_pictures_are_evaluated_with_the_statistics_of_the_run(trained, tmp_path):
    """Darker copies would look like the originals if normalised with their own statistics."""
    _, workdir = trained
    dark = photographs(tmp_path / 'dark', shift=60)
    saved = training.load_run(workdir, data_dir=str(dark))
    described = json.loads((workdir / 'dataset.json').read_text())
    assert list(saved.dataset.mean) == described['mean']
    own = data.load('image_folder', data_dir=dark, test=0.5)
    assert own.mean[0] < saved.dataset.mean[0] - 0.1
    other = photographs(tmp_path / 'other', classes=('cat', 'eel'))
    (line,) = errors('evaluate.py', (f'--workdir={workdir}', f'--data_dir={other}'))
    assert 'classes (cat, dog) in the run, (cat, eel) now' in line


def test_a_run_of_the_previous_version_has_no_fingerprints(trained, tmp_path):
    folder, workdir = trained
    copy = shutil.copytree(workdir, tmp_path / 'run')
    described = json.loads((copy / 'dataset.json').read_text())
    del described['fingerprints']
    (copy / 'dataset.json').write_text(json.dumps(described))
    (copy / 'result.json').unlink()
    shown = run('train.py', *FLAGS, f'--data_dir={folder}', f'--workdir={copy}')
    assert 'resuming' in shown
    assert 'fingerprints' in json.loads((copy / 'dataset.json').read_text())


def test_a_checkpoint_of_another_model_is_not_called_damaged(tmp_path):
    config = training.TrainConfig(steps=2, model_options='features=(4,),hidden=()')
    workdir = training.Workdir(tmp_path / 'run', config)
    with workdir.hold():
        training.train(training.make_job(config), workdir)
    changed = training.TrainConfig(steps=2, model_options='features=(5,),hidden=()')
    job = training.make_job(changed)
    with pytest.raises(training.MismatchError, match='belongs to another model: .* in the check'):
        training.train(job, workdir)
    assert not (tmp_path / 'run' / 'damaged').exists()


def test_the_fingerprint_depends_on_every_example():
    inputs = np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3, 1)
    labels = np.array([0, 1, 0, 1], np.int32)
    split = data.Split(inputs, labels)
    fingerprint = data.dataset.fingerprint
    assert fingerprint(split) == fingerprint(data.Split(inputs.copy(), labels.copy()))
    others = [inputs[::-1], inputs + (np.arange(36) == 35).reshape(4, 3, 3, 1).astype(np.uint8)]
    others = [data.Split(other, labels) for other in others]
    others.append(data.Split(inputs, labels[::-1]))
    assert len({fingerprint(each) for each in (split, *others)}) == 4

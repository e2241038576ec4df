"""Runs of every kind, exported and read again: the same predictions and images as from the run."""

import csv
import json
import wave

import jax
import numpy as np
import PIL.Image
import pytest

from cnn_jax import training
from cnn_jax.export import load_inference, stablehlo
from cnn_jax.export.exported import read_exported
from cnn_jax.export.files import beside, write_export
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.generation import averaged
from cnn_jax.training.generation_config import GenerateConfig
from cnn_jax.training.generation_job import make_generation_job
from cnn_jax.training.prediction import predictions
from tests.export.runs import save

ARRAYS = """
import numpy as np
chance = np.random.default_rng(0)
images = chance.integers(0, 256, (24, 8, 8, 1)).astype('uint8')
values = images, chance.normal(size=(24, 2)).astype('float32')
labels = images, chance.integers(0, 2, (24, 3))
"""
RUNS = {
    'images': {
        'model': 'vgg11_bn',
        'model_options': 'width=0.05',
        'dataset': 'image_folder:test=0.5',
    },
    'sound': {
        'model': 'm3',
        'model_options': 'features=(4,4)',
        'dataset': 'audio_folder:rate=800,length=400,test=0.5',
    },
    'text': {
        'model': 'textcnn',
        'model_options': 'embedding=4,filters=2',
        'dataset': 'text_table:test=0.5',
    },
    'masks': {
        'model': 'unet',
        'model_options': 'width=2,depth=1,batch_norm=True',
        'dataset': 'digit_scenes:count=20,size=8,objects=2',
    },
    'values': {'model': 'logistic', 'dataset': 'DATA/arrays.py:values'},
    'labels': {'model': 'logistic', 'dataset': 'DATA/arrays.py:labels'},
}
GENERATORS = {
    'autoencoder': 'features=(2,),hidden=4',
    'vae': 'features=(2,),hidden=4',
    'dcgan': 'latent=4,width=2',
}


def write_data(folder):
    """Writes images, recordings, texts and a file of arrays."""
    chance = np.random.default_rng(0)
    (folder / 'arrays.py').write_text(ARRAYS)
    for label in ('a', 'b'):
        for kind in ('images', 'sound'):
            (folder / kind / label).mkdir(parents=True)
        for i in range(8):
            image = chance.integers(0, 256, (32, 32, 3)).astype(np.uint8)
            PIL.Image.fromarray(image).save(folder / 'images' / label / f'{i}.png')
            with wave.open(str(folder / 'sound' / label / f'{i}.wav'), 'wb') as file:
                file.setparams((1, 2, 800, 0, 'NONE', ''))
                file.writeframes(chance.integers(-9999, 9999, 400).astype('<i2').tobytes())
    rows = [{'text': f'a {word} film', 'label': word} for word in ('good', 'bad') * 10]
    (folder / 'text').mkdir()
    with open(folder / 'text' / 'train.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, ['text', 'label'])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    write_data(folder)
    return folder


def inputs(example, about, count=3):
    low, high = about['input']['range']
    chance = np.random.default_rng(1)
    if low is None:
        return chance.normal(size=(count, *example.shape)).astype(example.dtype)
    return chance.integers(low, high + 1, (count, *example.shape)).astype(example.dtype)


@pytest.mark.parametrize('name', RUNS)
def test_predictions(name, data, tmp_path):
    folder = tmp_path / 'run'
    options = {k: v.replace('DATA', str(data)) for k, v in RUNS[name].items()}
    save(TrainConfig(**options, batch_size=8, data_dir=str(data / name)), folder)
    infer = load_inference(folder)
    content, about = stablehlo.export_program(infer)
    assert about['program']['platforms'] == ['cpu', 'cuda', 'tpu']
    file = tmp_path / 'model.stablehlo'
    write_export(file, content, about)
    x = inputs(infer.example, about)
    expected = predictions(training.load_run(folder, examples=False), x)
    found = read_exported(file).predict(x)
    if name == 'masks':
        assert found.dtype == np.uint8 and (found == expected).mean() > 0.99  # nearly equal logits
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert about['output']['shape'] == ['batch', *jax.eval_shape(infer, x).shape[1:]]
    assert json.loads(beside(file, '.json').read_text()) == about


@pytest.mark.parametrize('name', ['vae', 'dcgan'])
def test_averaged_weights_make_images(name, tmp_path):
    config = GenerateConfig(
        model=name, model_options=GENERATORS[name], dataset='digits', steps=2, ema=0.9
    )
    workdir = training.Workdir(tmp_path / 'run', config)
    with workdir.hold():
        job = make_generation_job(config, workdir.path)
        workdir.describe(job.dataset)
        state = job.init()
        state = state._replace(ema={name: each + 0.01 for name, each in state.ema.items()})
        with training.Checkpoints(workdir.checkpoints) as checkpoints:
            checkpoints.save(1, state.to_dict())
    infer = load_inference(workdir.path, averaged=True)
    x = inputs(infer.example, infer.about)
    used = averaged(state)
    wanted = job.paint(used.params, used.model_state, x)
    np.testing.assert_allclose(infer(x), wanted, rtol=1e-5, atol=1e-5)
    assert np.abs(wanted - job.paint(state.params, state.model_state, x)).max() > 1e-3


@pytest.mark.parametrize('name', GENERATORS)
def test_images(name, tmp_path):
    options = {'model': name, 'model_options': GENERATORS[name], 'dataset': 'digits'}
    job, *weights = save(GenerateConfig(**options), tmp_path / 'run')
    infer = load_inference(tmp_path / 'run')
    content, about = stablehlo.export_program(infer, platforms=['cpu'])
    x = inputs(infer.example, about)
    images = jax.export.deserialize(bytearray(content)).call(x)
    codes = job.encode(*weights, x) if name == 'autoencoder' else x
    np.testing.assert_allclose(images, job.paint(*weights, codes), rtol=1e-5, atol=1e-5)
    assert images.shape == (3, 8, 8, 1) and about['output']['shape'] == ['batch', 8, 8, 1]
    if name == 'vae':
        encode = load_inference(tmp_path / 'run', part='encode')
        raw = inputs(encode.example, encode.about)
        np.testing.assert_allclose(encode(raw), job.encode(*weights, raw), rtol=1e-5, atol=1e-5)

"""experiments/explain.py: it writes a page of a run, and says in one line what it cannot show."""

import base64
import json
import re

import numpy as np
import pytest
from PIL import Image

from cnn_jax import training
from cnn_jax.training.prediction import predictions
from tools import scripts


def content(path):
    """Returns what the page's script reads."""
    held = re.search(r'id="network">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(held[1])


def probabilities(page):
    return np.frombuffer(base64.b64decode(page['probabilities']['base64']), '<f4').reshape(-1, 10)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    scripts.run('train.py', '--dataset=digits', '--epochs=0.1', f'--workdir={folder}')
    return folder


def test_the_page_of_a_run(run):
    text = scripts.run('explain.py', f'--workdir={run}', '--examples=3,14')
    page, saved = run / 'explain.html', training.load_run(run)
    size = page.stat().st_size / 1e6
    assert text.splitlines()[-1] == f'{page}: {run} at step 2, {size:.2f} MB'
    found, test = content(page), saved.dataset.splits['test']
    assert [each['name'] for each in found['examples']] == ['test example 3', 'test example 14']
    assert [each['label'] for each in found['examples']] == test.labels[[3, 14]].tolist()
    expected = predictions(saved, test.inputs[[3, 14]])
    np.testing.assert_allclose(probabilities(found), expected, atol=1e-6)


@pytest.mark.slow
def test_files_and_what_is_refused(run, tmp_path):
    scenes, image, output = tmp_path / 'scenes', tmp_path / 'digit.png', tmp_path / 'new/page.html'
    scripts.run(
        'train.py', '--dataset=digit_scenes', '--model=unet', '--examples=64',
        '--model_options=width=4', f'--workdir={scenes}',
    )  # fmt: skip
    saved = training.load_run(run)
    inputs = saved.dataset.splits['test'].inputs[3:4]
    Image.fromarray(inputs[0, ..., 0]).save(image)
    scripts.run('explain.py', f'--workdir={run}', f'--output={output}', str(image))
    found = content(output)
    assert (found['examples'][0]['name'], found['examples'][0]['label']) == (str(image), None)
    np.testing.assert_allclose(probabilities(found), predictions(saved, inputs), atol=1e-6)

    lines = scripts.errors(
        'explain.py',
        (f'--workdir={tmp_path}',),
        (f'--workdir={run}', '--examples=355'),
        (f'--workdir={run}', '--examples=1', str(image)),
        (f'--workdir={run}', '--max_megabytes=0.05'),
        (f'--workdir={scenes}',),
    )
    expected = (
        str(tmp_path),
        "examples='355': must lie in [0, 355)",
        'either --examples or files',
        'too large for a page of 0.05 MB',
        'a network for segmentation of image data',
    )
    for line, part in zip(lines, expected, strict=True):
        assert line.startswith('error: ') and part in line

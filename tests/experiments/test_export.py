"""Runs export.py and predict.py --exported as a user does; the documented server without us."""

import csv
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import PIL.Image
import pytest

from cnn_jax import data, training
from cnn_jax.errors import UserError
from cnn_jax.export import load_inference, stablehlo
from cnn_jax.export.card import model_card
from cnn_jax.export.exported import read_exported
from cnn_jax.export.safetensors import export_weights
from cnn_jax.training.config import TrainConfig
from tests.export.runs import save
from tools.scripts import ROOT, errors, run

OPTIONS = {'model': 'lecture_cnn', 'model_options': 'features=(4,),hidden=()', 'dataset': 'digits'}
ACCURACIES = (0.75, 0.5)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The folder of a run, another beside it with another seed, and images."""
    folder = tmp_path_factory.mktemp('sweep')
    for seed, accuracy in enumerate(ACCURACIES):
        config = TrainConfig(**OPTIONS, seed=seed)
        save(config, folder / str(seed))
        result = {'step': 1, 'metric': 'accuracy', 'test': {'accuracy': accuracy}}
        training.Workdir(folder / str(seed), config).finish(result)
    (folder / 'images').mkdir()
    for i, image in enumerate(data.load('digits').splits['test'].inputs[:20]):
        PIL.Image.fromarray(image[..., 0]).save(folder / 'images' / f'{i:02}.png')
    return folder


@pytest.fixture(scope='module')
def exported(trained):
    file = trained / 'out' / 'model.stablehlo'
    said = run('export.py', f'--workdir={trained / "0"}', '--format=stablehlo', f'--output={file}')
    assert said.startswith('lecture_cnn on digits of step 1 of')
    return file


def test_the_same_rows_as_from_the_run(trained, exported):
    tables = []
    for source in (f'--workdir={trained / "0"}', f'--exported={exported}'):
        out = run('predict.py', source, '--top=10', str(trained / 'images'))
        tables.append(list(csv.reader(out.splitlines())))
    (header, *expected), (again, *found) = tables
    assert header == again and len(expected) == 200
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    probabilities = [[float(row[2]) for row in rows] for rows in (found, expected)]
    np.testing.assert_allclose(*probabilities, atol=1.1e-6)  # they have six digits


def test_description_and_model_card(trained, exported):
    about = json.loads(exported.with_name('model.stablehlo.json').read_text())
    assert about['input']['shape'] == ['batch', 8, 8, 1] and about['input']['range'] == [0, 255]
    assert about['seeds'] == {
        'metric': 'accuracy',
        'values': list(ACCURACIES),
        'mean': 0.625,
        'deviation': pytest.approx(np.std(ACCURACIES, ddof=1)),
    }
    card = exported.with_name('model.stablehlo.md').read_text()
    for part in (
        'Licence: CC BY 4.0.',
        '| test accuracy | 0.7500 |',
        '2 runs that differ only in the seed: test accuracy 0.6250 ± 0.1768',
        "python experiments/train.py '--model_options=features=(4,),hidden=()'",
    ):
        assert part in card, card
    assert 'has not been evaluated' in model_card(about | {'result': None}, 'x')
    names = {path.name for path in exported.parent.iterdir()}
    assert names == {'model.stablehlo', 'model.stablehlo.json', 'model.stablehlo.md'}


def test_the_documented_server_runs_where_this_package_is_missing(exported, tmp_path):
    page = (ROOT / 'docs' / 'export.md').read_text()
    (server,) = re.findall(r'```python\n(import http\.server.*?)```', page, re.DOTALL)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    blocked = 'import sys; sys.modules["cnn_jax"] = sys.modules["flax"] = None\n'
    file = tmp_path / 'serve.py'
    file.write_text(blocked + server.replace('8000', str(port)))
    process = subprocess.Popen(
        [sys.executable, file],
        cwd=exported.parent,
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': ''},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        image = data.load('digits').splits['test'].inputs[0]
        answer = ask(process, f'http://localhost:{port}', image.tobytes())
    finally:
        process.kill()
        process.communicate()
    assert len(answer) == 10 and sum(answer) == pytest.approx(1, abs=1e-5)


def ask(process, address, content, seconds=60):
    for _ in range(4 * seconds):
        try:
            with urllib.request.urlopen(address, content, timeout=seconds) as reply:
                return json.loads(reply.read())
        except ConnectionError:
            pass
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionError):
                raise
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.25)
    raise TimeoutError(address)


def test_flags_that_do_not_fit_are_one_line(trained):
    workdir = f'--workdir={trained / "0"}'
    lines = errors(
        'export.py',
        (workdir, '--format=pickle'),
        (workdir, '--platforms=cpu'),
        (workdir, '--format=stablehlo', '--image_size=any', f'--output={trained / "new" / "a"}'),
    )
    for line, said in zip(
        lines,
        (
            'flag --format=pickle: value should be one of <safetensors|',
            "platforms=['cpu']: does not apply to format='safetensors'",
            "image_size='any': layer logits of lecture_cnn needs a fixed size",
        ),
        strict=True,
    ):
        assert said in line
    assert not (trained / 'new').exists()
    (line,) = errors('predict.py', ('a.png',))
    assert line == 'error: give either --workdir=DIR or --exported=FILE'


def test_what_cannot_be_exported(trained, tmp_path):
    infer = load_inference(trained / '0')
    with pytest.raises(UserError, match="platforms='cpu,abacus': must be some of cpu,cuda,"):
        stablehlo.export_program(infer, platforms=['cpu', 'abacus'])
    with pytest.raises(UserError, match="part='decode': only autoencoders and GANs have parts"):
        load_inference(trained / '0', part='decode')
    with pytest.raises(UserError, match='no counterpart in torchvision'):
        export_weights(trained / '0', names='torchvision')
    (tmp_path / 'config.json').write_text((trained / '0' / 'config.json').read_text())
    with pytest.raises(UserError, match='holds no checkpoint'):
        load_inference(tmp_path)


def test_files_that_cannot_be_read(exported, tmp_path):
    for name, said in (
        ('model.pb', 'the name must end in .stablehlo'),
        ('none.stablehlo', 'no such file'),
        ('alone.stablehlo', 'alone.stablehlo.json, its description, is missing'),
        ('cut.stablehlo', 'not a program of jax.export that can be read'),
    ):
        file = tmp_path / name
        if name != 'none.stablehlo':
            file.write_bytes(exported.read_bytes()[:100])
        if name == 'cut.stablehlo':
            about = exported.with_name('model.stablehlo.json').read_bytes()
            file.with_name('cut.stablehlo.json').write_bytes(about)
        with pytest.raises(UserError, match=said):
            read_exported(file)

"""A trained network as an ONNX file: predictions, and the programs in docs/onnx.md."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from cnn_jax import data, training
from cnn_jax.errors import UserError
from cnn_jax.export.exported import read_exported
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.prediction import predictions
from tests.export.runs import save
from tools.scripts import ROOT, start

onnxruntime = pytest.importorskip('onnxruntime', reason='the extra `onnx` is not installed')

BLOCKED = 'import sys; sys.modules.update(dict.fromkeys(["jax", "flax", "cnn_jax"]))\n'


def block(title):
    """Returns a block of Python of the document."""
    text = (ROOT / 'docs' / 'onnx.md').read_text()
    return re.search(rf'```python title="{title}"\n(.*?)^```', text, re.DOTALL | re.MULTILINE)[1]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The folder of a run on the digits, with random weights, and with model.onnx."""
    folder = tmp_path_factory.mktemp('run')
    save(TrainConfig(dataset='digits'), folder)
    export(folder, '--format=onnx')
    return folder


def export(folder, *flags, code=0):
    process = start('export.py', f'--workdir={folder}', *flags)
    _, stderr = process.communicate()
    assert process.returncode == code, stderr
    return stderr


@pytest.fixture(scope='module')
def images():
    return data.load('digits').splits['test'].inputs


def test_predictions_are_those_of_the_run(run, images):
    expected = predictions(training.load_run(run, examples=False), images)
    found = read_exported(run / 'model.onnx').predict(images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_server_without_jax(run, images):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    program = [sys.executable, '-c', BLOCKED + block('serve.py'), str(port)]
    server = subprocess.Popen(program, cwd=run, stderr=subprocess.DEVNULL)
    try:
        body = json.dumps(images[:5].tolist()).encode()
        for _ in range(300):
            try:
                with urllib.request.urlopen(f'http://127.0.0.1:{port}', body) as answer:
                    found = json.loads(answer.read())
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.1)
    finally:
        server.kill()
        server.wait()
    expected = read_exported(run / 'model.onnx').predict(images[:5]).argmax(-1)
    assert found == [str(label) for label in expected]


def test_quantisation(run, images, monkeypatch):
    monkeypatch.chdir(run)
    exec(block('quantize.py'), {'__name__': '__main__'})
    outputs, size = {}, {}
    for name in ('model', 'int8'):
        path = run / f'{name}.onnx'
        (outputs[name],) = onnxruntime.InferenceSession(path).run(None, {'inputs': images})
        size[name] = path.stat().st_size
    assert 0 < abs(outputs['int8'] - outputs['model']).mean() < 0.02
    assert size['int8'] < size['model'] / 2


def test_a_wrong_flag_writes_nothing(run):
    before = sorted(run.iterdir())
    error = export(run, '--format=onnx', f'--output={run}/other.onnx', '--opset=3', code=2)
    assert 'opset=3: must be from 19 to' in error and len(error.splitlines()) == 1
    assert sorted(run.iterdir()) == before


def test_a_damaged_file_is_named(run, tmp_path):
    file = tmp_path / 'model.onnx'
    file.write_bytes((run / 'model.onnx').read_bytes()[:-1000])
    (tmp_path / 'model.onnx.json').write_text((run / 'model.onnx.json').read_text())
    with pytest.raises(UserError, match='model.onnx: not a model that can be read'):
        read_exported(file)

"""Tests predict.py, evaluate.py and export.py with files and shells as users have them."""

import csv
import os
import pathlib
import shutil
import stat
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from cnn_jax import training
from cnn_jax.data import Dataset, Split
from cnn_jax.errors import UserError
from cnn_jax.training import prediction
from cnn_jax.training.prediction import read_each, read_inputs
from tests.training.test_data_of_a_run import FLAGS, photographs
from tools.scripts import ROOT, errors, run, start

TEXTS = Dataset.described(
    {
        'name': 'texts', 'kind': 'text', 'input_shape': [12], 'dtype': 'int32',
        'sizes': {'train': 1, 'test': 1}, 'class_names': ['no', 'yes'], 'mean': [], 'std': [],
        'meta': {'vocabulary': ['<pad>', '<unknown>', 'a', 'good'], 'lower': True, 'margin': 2},
    }
)  # fmt: skip


@pytest.mark.parametrize(
    'content, lines',
    [
        ('a good film\nnot good\n', 2),
        ('a\u2028good\x85film\x0cand\x0bmore\nb', 2),
        ('a\r\ngood\r\n', 2),
        ('a\n\n\ngood', 4),
        ('...\n日本語\n', 2),
        ('\ufeffa', 1),
        ('\n', 1),
    ],
)
def test_every_line_of_a_text_is_one_row(tmp_path, content, lines):
    file = tmp_path / 'texts.txt'
    file.write_bytes(content.encode())
    inputs = read_inputs(TEXTS, [str(file)])
    assert inputs.rows.shape == (lines, 12) and not inputs.problems
    assert inputs.names == [f'{file}:{i}' for i in range(1, lines + 1)]


def test_a_line_without_a_known_word_is_read_as_one_unknown_word(tmp_path):
    file = tmp_path / 'texts.txt'
    file.write_text('\nsomething\ngood\n')
    rows = read_inputs(TEXTS, [str(file)]).rows
    assert rows[:, 2].tolist() == [1, 1, 3] and not rows[:, 3:].any()


def test_a_text_that_is_not_utf8_is_named(tmp_path):
    file = tmp_path / 'latin.txt'
    file.write_bytes('süß'.encode('latin-1'))
    with pytest.raises(ValueError, match='latin.txt:1: not UTF-8 text'):
        read_inputs(TEXTS, [str(file)])
    file.write_bytes(b'good\n\xe9\ngood \xf0\x9f\x98\x80\n')
    assert read_inputs(TEXTS, [str(file)]).names == [f'{file}:1', f'{file}:3']
    assert [str(value) for _, value in read_each(TEXTS, [str(file)])][1] == (
        f'{file}:2: not UTF-8 text'
    )


def test_batches_keep_the_order_around_what_cannot_be_read(tmp_path, monkeypatch):
    split = Split(np.zeros((1, 4, 4, 1), np.uint8), np.zeros(1, np.int32))
    dataset = Dataset('images', 'image', {'train': split, 'test': split}, ('a', 'b'))
    monkeypatch.setattr(prediction, 'BATCH', 4)
    files = [str(tmp_path / f'{i}.png') for i in range(13)]
    for i in set(range(13)) - {1, 4, 5, 6, 7, 12}:  # missing: one, a whole batch, the last
        PIL.Image.new('L', (4, 4), i).save(files[i])
    (tmp_path / 'empty').mkdir()
    files.append(str(tmp_path / 'empty'))
    found = list(prediction.classify(dataset, lambda inputs: inputs.mean((1, 2, 3)), files))
    assert [name for name, _ in found] == files
    values = [None if isinstance(value, UserError) else int(value) for _, value in found]
    assert values == [0, None, 2, 3, None, None, None, None, 8, 9, 10, 11, None, None]
    assert all(name in str(value) for name, value in found if isinstance(value, UserError))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The folder of a run on two classes of images."""
    folder = tmp_path_factory.mktemp('predict')
    photographs(folder / 'data')
    run('train.py', *FLAGS, f'--data_dir={folder / "data"}', f'--workdir={folder / "run"}')
    return folder / 'run'


def predict(workdir, *arguments):
    process = start('predict.py', f'--workdir={workdir}', *map(str, arguments))
    out, err = process.communicate()
    return process.returncode, list(csv.DictReader(out.splitlines())), err


def test_a_folder_stands_for_its_files_and_a_bad_one_does_not_lose_the_rest(trained, tmp_path):
    photographs(tmp_path / 'new', count=2)
    (tmp_path / 'new' / 'dog' / 'broken.png').write_bytes(b'no image')
    (tmp_path / 'new' / '.thumbnails').mkdir()
    for name in ('.thumbnails/x.png', 'notes.txt', '__MACOSX/x.png'):
        (tmp_path / 'new' / name).parent.mkdir(exist_ok=True)
        (tmp_path / 'new' / name).write_bytes(b'no image')
    code, rows, err = predict(trained, tmp_path / 'new')
    assert code == 1 and err.count('\n') == 1 and 'broken.png' in err
    names = ['0.png', '1.png', '0.png', '1.png', 'broken.png']
    assert [pathlib.Path(row['file']).name for row in rows] == names
    assert {row['class'] for row in rows[:4]} <= {'cat', 'dog'}
    assert list(rows[4].values())[1:] == ['', '']
    code, rows, _ = predict(trained, tmp_path / 'new' / 'dog' / 'broken.png')
    assert code == 2 and len(rows) == 1


def test_a_name_that_is_not_utf8(trained, tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b'\xff.png')
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / 'zero.png')
    os.rename(tmp_path / 'zero.png', name)
    output = tmp_path / 'some' / 'classes.csv'
    code, _, err = predict(trained, tmp_path, f'--output={output}')
    assert code == 0, err
    assert output.read_bytes().splitlines()[1].startswith(name + b',')
    process = start('predict.py', f'--workdir={trained}', str(tmp_path))
    assert process.stdout.buffer.read() == output.read_bytes() and process.wait() == 0


def test_a_damaged_checkpoint_is_no_row(trained, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / 'run')
    newest = max((workdir / 'checkpoints').iterdir(), key=lambda path: int(path.name))
    for file in (newest / 'state' / 'd').iterdir():
        file.write_bytes(b'')
    photographs(tmp_path / 'new', count=1)
    process = start('predict.py', f'--workdir={workdir}', str(tmp_path / 'new'))
    out, err = process.communicate()
    assert out.startswith('file,class,probability\n') and len(out.splitlines()) == 3
    assert f'checkpoint {newest.name} is damaged' in err


@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize('copies', [1, 300])  # within Python's buffer, and beyond it
def test_a_full_disk_is_one_line(copies, unbuffered, trained, tmp_path):
    photographs(tmp_path / 'new', count=1)
    with open('/dev/full', 'w') as full:
        command = [sys.executable, ROOT / 'experiments' / 'predict.py', f'--workdir={trained}']
        environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
        environment['PYTHONUNBUFFERED'] = unbuffered
        done = subprocess.run(
            [*command, *[tmp_path / 'new'] * copies],
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2 and done.stderr == 'error: [Errno 28] No space left on device\n'


def test_a_reader_that_has_enough_is_no_error(trained, tmp_path):
    photographs(tmp_path / 'new', count=1)
    command = f'{sys.executable} {ROOT}/experiments/predict.py --workdir={trained} {tmp_path}/new'
    files = ' '.join([f'{tmp_path}/new'] * 300)
    shell = f'set -o pipefail; {command} {files} | head -1'
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(['bash', '-c', shell], env=environment, capture_output=True, text=True)
    assert done.stdout == 'file,class,probability\n' and done.stderr == ''
    assert done.returncode in (0, 141)  # the pipe may hold the whole output
    for line in (f'{command} {tmp_path}/new', f'{sys.executable} -m cnn_jax --help'):
        shell = f'set -o pipefail; {line} | true'
        done = subprocess.run(['bash', '-c', shell], env=environment, capture_output=True)
        assert (done.returncode, done.stderr) == (141, b'')


def test_step_best_and_newest(trained):
    with training.Checkpoints(trained / 'checkpoints', read_only=True) as checkpoints:
        steps = checkpoints.steps()
        best = checkpoints.find('best')
    assert training.load_run(trained, step='best', examples=False).step == best
    assert f'at step {best}:' in run('evaluate.py', f'--workdir={trained}', '--step=best')
    assert f'at step {steps[-1]}:' in run('evaluate.py', f'--workdir={trained}')
    wrong = errors(
        'evaluate.py',
        (f'--workdir={trained}', '--step=last'),
        (f'--workdir={trained}', '--step=77'),
    )
    assert "step='last': must be newest, best" in wrong[0]
    assert f'step=77: must be one of {steps}, the checkpoints' in wrong[1]


def test_export_makes_its_folder_and_leaves_nothing_else(trained, tmp_path):
    target = tmp_path / 'some' / 'where' / 'weights.safetensors'
    old = os.umask(0o027)
    try:
        run('export.py', f'--workdir={trained}', f'--output={target}', '--step=best')
    finally:
        os.umask(old)
    assert [path.name for path in target.parent.iterdir()] == ['weights.safetensors']
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    (line,) = errors('export.py', (f'--workdir={trained}', f'--output={tmp_path}'))
    assert 'is a folder' in line


def test_home_folders_and_object_stores(trained, monkeypatch):
    monkeypatch.setenv('HOME', str(trained.parent))
    monkeypatch.setenv('CNN_JAX_NATIVE', '0')  # would be built again, in this home folder
    assert 'accuracy' in run('evaluate.py', '--workdir=~/run', '--data_dir=~/data')
    lines = errors('train.py', ('--workdir=gs://bucket/run',), ('--data_dir=s3://bucket/data',))
    assert all('object stores cannot be read or written' in line for line in lines)
    with pytest.raises(ValueError, match='gs://bucket/run.*local folder'):
        training.Workdir('gs://bucket/run', training.TrainConfig())

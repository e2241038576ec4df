"""Runs train.py and evaluate.py as a user does, in separate processes."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cnn_jax.training import TrainConfig, Workdir, WorkdirError, make_job
from tools import scripts

SMALL = ('--epochs=2', '--model_options=features=(4,),hidden=()', '--learning_rate=0.01')


def start(script, *flags):
    return scripts.start(script, *map(str, flags))


def run(script, *flags):
    process = start(script, *flags)
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """The folder of a finished run, and what the run printed."""
    workdir = tmp_path_factory.mktemp('finished') / 'run'
    code, out, err = run('train.py', f'--workdir={workdir}', *SMALL)
    assert code == 0, err
    return workdir, out


@pytest.mark.smoke
def test_a_run_writes_all_it_promises(finished):
    workdir, out = finished
    lines = out.splitlines()
    assert lines[1].startswith('epoch 1/2') and lines[2].startswith('epoch 2/2')
    accuracy = float(re.fullmatch(rf'test accuracy (0\.\d+), written to {workdir}', lines[-1])[1])
    result = json.loads((workdir / 'result.json').read_text())
    confusion = np.array(result['test']['confusion'])
    assert round(np.trace(confusion) / confusion.sum(), 4) == accuracy > 0.5
    assert confusion.sum() == 355
    assert json.loads((workdir / 'config.json').read_text())['model'] == 'lecture_cnn'
    rows = scripts.rows(workdir)
    assert rows[0]['step'] == 1 and rows[-1]['step'] == 44 and 'test_accuracy' in rows[-1]
    assert list(workdir.glob('events.out.tfevents.*'))
    pictures = {p.name for p in (workdir / 'pictures').iterdir()}
    assert pictures == {
        'learning_curves.png',
        'confusion_matrix.png',
        'filters.png',
        'feature_maps.png',
    }


def test_run_again_says_finished_and_changes_nothing(finished):
    workdir, out = finished
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}
    code, again, _ = run('train.py', f'--workdir={workdir}', *SMALL)
    assert code == 0 and again.startswith('already finished at step 44')
    assert again.splitlines()[-1].endswith(out.splitlines()[-1])
    assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}


@pytest.mark.smoke
def test_evaluate_from_the_folder_alone(finished):
    workdir, out = finished
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}
    code, said, err = run('evaluate.py', f'--workdir={workdir}')
    assert code == 0, err
    accuracy = re.search(r'test accuracy (0\.\d+)', out)[1]
    assert f'accuracy {accuracy}' in said.splitlines()[-1]
    assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob('*')}


def test_predict_and_export(finished, tmp_path):
    """Predicts test images from files; compares with the confusion matrix of their run."""
    import csv

    import PIL.Image
    from safetensors.numpy import load_file

    from cnn_jax import data

    workdir, _ = finished
    test = data.load('digits').splits['test']
    files = [str(tmp_path / f'{i}.png') for i in range(len(test))]
    for file, image in zip(files, test.inputs, strict=True):
        PIL.Image.fromarray(image[..., 0]).save(file)
    code, out, err = run('predict.py', f'--workdir={workdir}', *files)
    assert code == 0, err
    rows = list(csv.DictReader(out.splitlines()))
    assert [row['file'] for row in rows] == files
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (test.labels, [int(row['class']) for row in rows]), 1)
    result = json.loads((workdir / 'result.json').read_text())
    assert confusion.tolist() == result['test']['confusion']
    assert all(0.1 <= float(row['probability']) <= 1 for row in rows)

    output = tmp_path / 'weights.safetensors'
    code, _, err = run('export.py', f'--workdir={workdir}', f'--output={output}')
    assert code == 0, err
    shapes = {name: value.shape for name, value in load_file(output).items()}
    assert shapes['layers/conv1/kernel'] == (3, 3, 1, 4) and len(shapes) == 4


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(finished, tmp_path):
    workdir = tmp_path / 'run'
    both = [
        start('train.py', f'--workdir={workdir}', *SMALL, *own)
        for own in scripts.together(2, heartbeat_seconds=30)
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    # float32 sums in a different order, over 44 steps
    np.testing.assert_allclose(scripts.losses(workdir), scripts.losses(finished[0]), rtol=1e-4)


@pytest.mark.parametrize(
    'flags, said',
    [
        (['--batch_size=0'], 'batch_size=0: must be at least 1'),
        (['--model=resnet99'], "unknown model 'resnet99'; must be one of lecture_cnn"),
        (['--modell=vgg'], "Unknown command line flag 'modell'"),
    ],
    ids=str,
)
def test_bad_flags_end_with_one_line(tmp_path, flags, said):
    code, out, err = run('train.py', f'--workdir={tmp_path / "run"}', *flags)
    assert (code, out) == (2, '')
    assert len(err.splitlines()) == 1 and err.startswith('error: ') and said in err
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'values, said',
    [
        ({'dataset': 'digitz'}, "'digitz'.*digits"),
        ({'dataset': 'mnist', 'data_dir': '/no/such/folder'}, 'data_dir=.*is not a folder'),
        ({'implementation': 'cudnn'}, "'cudnn'.*lax"),
        ({'model': 'vgg16'}, 'too small'),
        ({'model': 'textcnn'}, 'text'),
        ({'batch_size': 2048}, 'batch_size=2048 is larger than the number of examples, 1442'),
        ({'warmup': '30epochs'}, "warmup='30epochs': its 660 steps"),
        ({'augment': 'flop'}, "'flop' must be one of"),
        ({'init_from': '/no/such/run'}, 'holds no config.json'),
        ({'model_options': 'depth=3'}, 'no option depth'),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said_before_anything_runs(values, said):
    with pytest.raises((ValueError, OSError), match=said) as caught:
        make_job(TrainConfig(**values))
    assert '\n' not in str(caught.value)


def test_a_folder_of_another_run_is_left_alone(finished, tmp_path):
    workdir, _ = finished
    with pytest.raises(WorkdirError, match='epochs=2.0 in the run, 3.0 now'):
        Workdir(workdir, TrainConfig(epochs=3.0, learning_rate=0.01))
    (tmp_path / 'thesis.txt').touch()
    with pytest.raises(WorkdirError, match='thesis.txt'):
        Workdir(tmp_path, TrainConfig())
    with pytest.raises(WorkdirError, match='cannot be written'):
        Workdir('/proc/run', TrainConfig()).hold()


def test_a_second_process_is_refused(tmp_path):
    workdir = Workdir(tmp_path / 'run', TrainConfig())
    with workdir.hold():
        with pytest.raises(WorkdirError, match='in use by another process'):
            Workdir(tmp_path / 'run', TrainConfig()).hold()
    workdir.hold().close()


@pytest.mark.slow
def test_sigterm_saves_and_the_next_run_goes_on(finished, tmp_path):
    workdir = tmp_path / 'run'
    process = start('train.py', f'--workdir={workdir}', *SMALL, '--log_every=1')
    metrics = workdir / 'metrics.jsonl'
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 75 and re.search(
        r'SIGTERM: stopped after step \d+ of 44, saved', err
    )
    code, out, err = run('train.py', f'--workdir={workdir}', *SMALL, '--log_every=1')
    assert code == 0 and f'resuming {workdir} at step' in out, err
    assert scripts.last_state(workdir) == scripts.last_state(finished[0])


def test_a_damaged_checkpoint_is_one_line(finished, tmp_path):
    """Runs twice, because it depends on timing whether Orbax's other reads print errors too."""
    for i in range(2):
        workdir = shutil.copytree(finished[0], tmp_path / f'run{i}')
        (workdir / 'result.json').unlink()
        for file in (workdir / 'checkpoints' / '44' / 'state' / 'd').iterdir():
            file.write_bytes(bytes(file.stat().st_size))
        code, out, err = run('train.py', f'--workdir={workdir}', *SMALL)
        assert (code, err) == (0, '')
        assert re.search(r'^checkpoint 44 is damaged .*/44/state/d/.*; trying', out, re.MULTILINE)
        assert out.splitlines()[-1].startswith('test accuracy')


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_bits():
    report = json.loads(disturb('kill_resume.py', '--kills=2').splitlines()[-1])
    assert report['kills'] == 2 and report['runs'] == report['bit-identical'] >= 1


@pytest.mark.slow
def test_disturbed_runs_finish_with_the_same_bits():
    table = disturb('faults.py', '--times=1', '--only=clock,other_runs,elastic')
    assert len(table.splitlines()) == 2 + 3 + 2 + 3


def disturb(script, *flags):
    path = scripts.ROOT / 'tools' / script
    command = [sys.executable, str(path), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout

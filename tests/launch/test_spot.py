"""Tests that runs on spot machines survive preemption at any moment, with a stand-in for gcloud."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.launch import checkout

# Trains like the real script, in a hundredth of the time: the state is a hash of all steps before,
# a checkpoint is a folder that is complete when it has its name, and the metrics have a row per
# step. A damaged checkpoint is set aside. It fails if it is given an incomplete checkpoint or
# metrics that lack rows.
_TRAIN = """
import hashlib, json, pathlib, shutil, sys, time
flags = dict(flag[2:].split('=', 1) for flag in sys.argv[1:])
folder, steps = pathlib.Path(flags['workdir']), int(flags.get('steps', 8))
checkpoints, metrics = folder / 'checkpoints', folder / 'metrics.jsonl'
checkpoints.mkdir(parents=True, exist_ok=True)
if (folder / 'result.json').exists():
    sys.exit()
if 'code' in flags:
    sys.exit(int(flags['code']))
step, state, rows = 0, '', []
for found in sorted((int(each.name) for each in checkpoints.glob('[0-9]')), reverse=True):
    state, *others = [(checkpoints / str(found) / name).read_text() for name in 'abc']
    rows = metrics.read_text().splitlines()[:found]
    assert len(rows) == found, 'incomplete'
    if others != [state, state]:
        (checkpoints / str(found)).rename(folder / f'damaged-{found}')
        print('damaged:', found, flush=True)
        continue
    print('resuming at', step := found, flush=True)
    break
metrics.write_text(''.join(row + '\\n' for row in rows))
while step < steps:
    time.sleep(0.03)
    step += 1
    state = hashlib.sha256(f'{state}{step}'.encode()).hexdigest()
    with metrics.open('a') as file:
        file.write(json.dumps({'step': step, 'state': state}) + '\\n')
    if step % 2 == 0:
        new = checkpoints / f'{step}.orbax-checkpoint-tmp'
        new.mkdir()
        for name in 'abc':
            (new / name).write_text(state)
        new.rename(checkpoints / str(step))
        shutil.rmtree(checkpoints / str(step - 4), ignore_errors=True)
(folder / 'result.json').write_text(json.dumps({'state': state}))
print('trained')
"""


COMMIT = 'commit_success.txt'


FLAGS = ['--zone=here', '--project=mine', '--spot', '--workdir=gs://bucket/runs/a']


@pytest.fixture
def spot(google):
    """Google, with the stub of a training in its checkout."""
    (google.checkout / 'experiments/train.py').write_text(_TRAIN)
    return google


def expected(steps=8):
    """The last state of an uninterrupted run."""
    state = ''
    for step in range(1, steps + 1):
        state = hashlib.sha256(f'{state}{step}'.encode()).hexdigest()
    return state


def check_finished(spot, steps=8):
    run = spot.bucket / 'runs/a'
    rows = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    assert [row['step'] for row in rows] == list(range(1, steps + 1))
    assert json.loads((run / 'result.json').read_text())['state'] == expected(steps)
    assert (run / f'checkpoints/{steps}/a').read_text() == expected(steps)
    for path in (run / 'checkpoints').iterdir():
        assert {each.name for each in path.iterdir()} in (set(), {*'abc', 'commit_success.txt'})


@pytest.mark.parametrize('seed', range(4))
def test_result_is_that_of_an_uninterrupted_run(spot, seed):
    chance = random.Random(seed)
    plan = [chance.randint(1, 30) for _ in range(2)]
    code, output = spot.run('tpu_vm.sh', *FLAGS, '--tries=3', plan=plan)
    assert code == 0, output
    check_finished(spot)
    assert (spot.checkout / 'runs/a/result.json').exists()
    assert 1 <= spot.machines() <= 3 and spot.what_is_left() == []


def test_number_of_tries_is_respected_and_the_same_command_resumes(spot):
    plan = ['**/commit_success.txt'] * 2
    code, output = spot.run('tpu_vm.sh', *FLAGS, '--tries=2', plan=plan)
    assert code == 75 and 'gave up after 2 tries; the same command resumes' in output
    assert spot.machines() == 2 and spot.what_is_left() == []
    code, output = spot.run('tpu_vm.sh', *FLAGS, '--tries=1')
    assert code == 0 and 'resuming at' in output
    check_finished(spot)


def test_checkpoint_that_is_written_again_is_copied_again(spot):
    spot.run('tpu_vm.sh', *FLAGS)
    run = spot.bucket / 'runs/a'
    (run / 'result.json').unlink()
    (run / 'checkpoints/8/b').write_text('damaged')
    code, output = spot.run('tpu_vm.sh', *FLAGS)
    assert code == 0 and 'damaged: 8' in output and 'resuming at 6' in output
    check_finished(spot)
    assert (run / 'checkpoints/8/b').read_text() == expected()


@pytest.mark.parametrize('code', [1, 2])
def test_error_of_the_training_is_not_tried_again(spot, code):
    found, output = spot.run('tpu_vm.sh', *FLAGS, f'--code={code}')
    assert found == code and f'exit code {code}' in output
    assert spot.machines() == 1 and spot.what_is_left() == []


def test_training_that_was_stopped_is_tried_again(spot):
    code, output = spot.run('tpu_vm.sh', *FLAGS, '--code=75', '--tries=2')
    assert code == 75 and spot.machines() == 1 and spot.what_is_left() == []
    assert output.count('attach.sh: exit code 75') == 2, output


@pytest.mark.parametrize('moment', ['WAITING_FOR_RESOURCES', 'resuming at'])
def test_interrupt_deletes_the_machine(spot, moment):
    """Ctrl-C sends SIGINT to the whole process group."""
    spot.run('tpu_vm.sh', *FLAGS, '--tries=1', plan=['**/commit_success.txt'])
    process = spot.start('tpu_vm.sh', *FLAGS, '--steps=1000')
    for line in process.stdout:
        if moment in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 130, output
    assert spot.what_is_left() == [] and 'delete cnn-jax' in output


def test_bucket_that_cannot_be_written_is_named(spot):
    code, output = spot.run('tpu_vm.sh', *FLAGS, '--workdir=gs://other/a')
    assert code == 2 and spot.machines() == 1 and spot.what_is_left() == []
    assert 'gs://other/a/logs/started.txt: no such bucket' in output
    assert '--workdir=gs://other/a: cannot be written and read' in output


def test_folder_on_the_machine_does_not_outlast_it(spot):
    code, output = spot.run('tpu_vm.sh', *FLAGS, '--workdir=runs/a')
    assert code == 2 and output.count('\n') == 1 and spot.machines() == 0
    assert '--workdir=runs/a: does not outlast a preempted machine' in output


def test_command_outlives_its_connection(tmp_path):
    command = ['bash', str(checkout.ROOT / 'launch/attach.sh'), str(tmp_path / 'training')]
    wait = f'while [[ ! -e {tmp_path}/go ]]; do sleep 0.05; done'
    body = f'echo begun >>{tmp_path}/begun; {wait}; exit 3'
    first = subprocess.Popen([*command, 'bash', '-c', body], start_new_session=True)
    while not (tmp_path / 'begun').exists():
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    other = subprocess.run([*command, 'true'], capture_output=True, text=True)
    assert other.returncode == 2 and 'still runs: bash -c' in other.stdout
    (tmp_path / 'go').touch()
    again = subprocess.run([*command, 'bash', '-c', body], capture_output=True, text=True)
    assert again.returncode == 3 and again.stdout == 'attach.sh: exit code 3\n'
    assert (tmp_path / 'begun').read_text() == 'begun\n'


# A machine's `train.py` that is the real one.
_REAL = f"""
import runpy, sys
sys.argv[0] = '{checkout.ROOT}/experiments/train.py'
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.mark.slow  # three programs with JAX
def test_real_training_ends_with_the_same_bits(google, tmp_path):
    flags = ['--dataset=digits', '--batch_size=256', '--model_options=features=(4,),hidden=()']
    flags += ['--epochs=12', '--checkpoint_every=5steps', '--log_every=1']
    (google.checkout / 'experiments/train.py').write_text(_REAL)
    google.environment |= dict(
        PYTHONPATH=str(checkout.ROOT),
        JAX_PLATFORMS='cpu',
        XLA_FLAGS='',
        JAX_COMPILATION_CACHE_DIR=str(tmp_path / 'compiled'),
    )
    command = [sys.executable, 'experiments/train.py', f'--workdir={tmp_path}/whole', *flags]
    subprocess.run(command, cwd=google.checkout, env=google.environment, check=True)
    code, output = google.run('tpu_vm.sh', *FLAGS, *flags, plan=['**/commit_success.txt'])
    assert code == 0 and google.machines() == 2, output
    assert 'resuming' in output
    one, other = tmp_path / 'whole', google.bucket / 'runs/a'
    newest = 'checkpoints/60/meta/metadata'  # has a checksum of every array
    assert (one / newest).read_bytes() == (other / newest).read_bytes()
    assert losses(one) == losses(other)


def losses(folder):
    rows = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    return [(row['step'], row.get('train_loss'), row.get('test_loss')) for row in rows]

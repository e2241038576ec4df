"""Tests launch/multiprocess.sh with real training runs in two processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.checkout import ROOT

RUN = ['--dataset=digits', '--batch_size=256', '--model_options=features=(4,),hidden=()']


def launch(folder, *flags, start=False):
    environment = os.environ | {
        'CNN_JAX_PYTHON': sys.executable,
        'PYTHONPATH': str(ROOT),
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': '',
    }
    command = ['bash', 'launch/multiprocess.sh', f'--workdir={folder}', *RUN, *flags]
    options = dict(cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, text=True)
    if start:
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return subprocess.Popen(command, **pipes, **options)
    return subprocess.run(command, capture_output=True, **options)


def steps(folder):
    try:
        lines = (folder / 'metrics.jsonl').read_text().splitlines()
        return json.loads(lines[-1])['step'] if lines else 0
    except (FileNotFoundError, ValueError):
        return 0


def checkpoints(folder):
    """Folders of complete checkpoints; only these have a plain number as their name in Orbax."""
    return [path for path in (folder / 'checkpoints').glob('*') if path.name.isdigit()]


def children(process):
    """Maps the number of each process in the run to its process ID."""
    command = ['ps', '-ww', '-o', 'pid=,args=', '--ppid', str(process.pid)]
    listed = subprocess.run(command, capture_output=True, text=True).stdout
    return {
        int(i): int(pid) for pid, i in re.findall(r'^ *(\d+) .*--process_id=(\d)', listed, re.M)
    }


def test_killed_process_restarts_all_from_the_checkpoint_and_sigterm_saves(tmp_path):
    workdir = tmp_path / 'run'
    flags = ['--processes=2', '--epochs=2000', '--checkpoint_every=5steps', '--log_every=1']
    process = launch(workdir, *flags, start=True)
    try:
        while not checkpoints(workdir):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        os.kill(children(process)[1], signal.SIGKILL)
        log = workdir / 'logs' / 'process0.log'
        while 'resuming' not in log.read_text():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        seen = steps(workdir)
        while steps(workdir) <= seen:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        output = process.communicate()[0]
    finally:
        process.kill()
    assert process.returncode == 75, output
    # The killed process, or the other one, which noticed immediately that its peer was gone.
    assert re.search('process [01] died with exit code [1-9]', output), output
    assert 'restart 1 of 3, from the newest checkpoint' in output
    assert 'restart 2' not in output


def test_wrong_flag_of_the_training_is_not_tried_again(tmp_path):
    done = launch(tmp_path / 'run', '--processes=2', '--batch_size=0')
    assert done.returncode == 2 and 'restart' not in done.stderr
    assert 'batch_size' in done.stdout


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--processes=0'], '--processes=0: must be an integer of at least 1'),
        (['--max_restarts=x'], '--max_restarts=x'),
        (['--port=http'], '--port=http'),
        (['stray'], 'flags are written --name=value'),
        (['--workdir=gs://bucket/a'], '--workdir=gs://bucket/a: must be a local folder'),
    ],
)
def test_wrong_calls_are_one_line(tmp_path, flags, message):
    done = launch(tmp_path / 'run', *flags)
    assert done.returncode == 2 and done.stdout == '' and done.stderr.count('\n') == 1
    assert message in done.stderr and not (tmp_path / 'run').exists()


def test_dry_run_prints_one_command_a_process(tmp_path):
    done = launch(tmp_path / 'run', '--processes=3', '--port=1234', '--dry_run')
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and not (tmp_path / 'run').exists()
    wanted = [f'--coordinator=127.0.0.1:1234 --num_processes=3 --process_id={i}' for i in range(3)]
    assert [line[line.index('--coord') :] for line in lines] == wanted

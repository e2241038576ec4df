"""Tests launch/sweep.sh with real training runs, and its table."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from launch import sweep_table
from tests.launch import checkout
from tests.launch.checkout import ROOT

RUN = ['--dataset=digits', '--batch_size=256', '--model_options=features=(4,),hidden=()']


def _environment():
    return os.environ | {
        'CNN_JAX_PYTHON': sys.executable,
        'PYTHONPATH': str(ROOT),
        'JAX_PLATFORMS': 'cpu',
    }


def sweep(folder, *flags, start=False):
    command = ['bash', 'launch/sweep.sh', f'--sweepdir={folder}', *RUN, *flags]
    options = dict(cwd=ROOT, env=_environment(), stdin=subprocess.DEVNULL, text=True)
    if start:
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options
        )
    return subprocess.run(command, capture_output=True, **options)


def test_interrupted_by_sigterm_resumed_failures_named_and_table(tmp_path):
    grid = '--grid=model=lecture_cnn,nonexistent'
    process = sweep(tmp_path, '--seeds=0,1', '--epochs=400', start=True)
    metrics = tmp_path / 'run' / 'seed0' / 'metrics.jsonl'
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # to the script only, as a scheduler does
    assert process.wait() == 75, process.stderr.read()
    process.stderr.close()
    assert not (tmp_path / 'run' / 'seed0' / 'result.json').exists()
    assert not (tmp_path / 'run' / 'seed1').exists()

    done = sweep(tmp_path, '--seeds=0,1', '--epochs=4', grid)
    assert done.returncode == 1, done.stderr
    assert 'failed: model=nonexistent, seed 0 (exit code 2)' in done.stderr
    assert (
        "unknown model 'nonexistent'" in (tmp_path / 'logs/model=nonexistent,seed1.log').read_text()
    )
    results = [
        json.loads((tmp_path / f'model=lecture_cnn/seed{n}/result.json').read_text())
        for n in (0, 1)
    ]
    mean = sum(r['test']['accuracy'] for r in results) / 2
    assert f'| model=lecture_cnn | 2 of 2 | {mean:.4f} |' in done.stdout
    assert '| run | 0 of 1 |' in done.stdout  # the interrupted run: started, not finished
    assert (tmp_path / 'table.md').read_text() in done.stdout

    again = sweep(tmp_path, '--seeds=0,1', '--epochs=4', '--grid=model=lecture_cnn')
    assert again.returncode == 0, again.stderr
    assert again.stderr.count('already finished') == 2


def test_dry_run_prints_every_combination(tmp_path):
    recipe = tmp_path / 'small.flags'
    recipe.write_text('--epochs=1\n')
    flags = [f'--recipes={recipe}', '--grid=optimizer=sgd,adamw', '--grid=learning_rate=1e-2,1e-3']
    done = sweep(tmp_path / 'out', *flags, '--seeds=3,4', '--dry_run')
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(set(lines)) == 2 * 2 * 2
    assert all(f'--flagfile={recipe}' in line for line in lines)
    assert sum('--optimizer=sgd --learning_rate=1e-3' in line for line in lines) == 2
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--workdir=x'], 'creates the working folders itself'),
        (['--grid=learning_rate'], 'must be --grid=FLAG=V1,V2'),
        (['--seeds=a'], '--seeds=a: must be integers'),
        (['--recipes=none.flags'], 'no such file: none.flags'),
        (['stray'], 'flags are written --name=value'),
        (['--together=0'], '--together=0: must be an integer of at least 1'),
        (['--jobs=two'], '--jobs=two: must be an integer of at least 1'),
        (['--array=0'], '--array=0: must be an integer of at least 1'),
        (['--array=1', '--jobs=2'], '--jobs=2: not with --array'),
        (['--sbatch=--account=me'], 'needs --array=N'),
    ],
)
def test_wrong_calls_are_one_line(tmp_path, flags, message):
    done = sweep(tmp_path / 'out', *flags)
    assert done.returncode == 2 and done.stdout == '' and done.stderr.count('\n') == 1
    assert message in done.stderr and not (tmp_path / 'out').exists()


def _result(folder, combination, seed, accuracy):
    run = folder / combination / f'seed{seed}'
    run.mkdir(parents=True)
    (run / 'config.json').write_text('{}')
    if accuracy is not None:
        (run / 'result.json').write_text(json.dumps({'test': {'accuracy': accuracy}}))


def test_table_has_mean_and_sample_deviation_best_first(tmp_path):
    for seed, accuracy in enumerate((0.90, 0.92, 0.94)):
        _result(tmp_path, 'low', seed, accuracy)
    _result(tmp_path, 'high', 0, 0.99)
    _result(tmp_path, 'high', 1, None)
    _result(tmp_path, 'begun', 0, None)
    values = sweep_table.read(tmp_path, 'test.accuracy')
    assert sweep_table.table(values, 'test.accuracy').splitlines()[2:] == [
        '| high | 1 of 2 | 0.9900 |  | 0.9900 | 0.9900 |',
        '| low | 3 of 3 | 0.9200 | 0.0200 | 0.9000 | 0.9400 |',
        '| begun | 0 of 1 | | | | |',
    ]


def test_unknown_metric_is_one_line(tmp_path, capsys):
    _result(tmp_path, 'a', 0, 0.5)
    assert sweep_table.main(['', str(tmp_path), 'test.accuracies']) == 2
    assert 'error: --metric=test.accuracies is not in the results' in capsys.readouterr().err


def test_values_with_commas_are_separated_by_semicolons(tmp_path):
    done = sweep(tmp_path, '--dry_run', '--grid=augment=crop:1,flip;flip', '--grid=ema=0.5,0.9')
    assert done.returncode == 0, done.stderr
    values = [
        (augment, ema)
        for line in done.stdout.replace('\\', '').splitlines()
        for augment, ema in re.findall(r'--augment=(\S+) --ema=(\S+) ', line)
    ]
    assert values == [
        ('crop:1,flip', '0.5'),
        ('crop:1,flip', '0.9'),
        ('flip', '0.5'),
        ('flip', '0.9'),
    ]


@pytest.mark.slow
def test_runs_train_together_in_programs_side_by_side(tmp_path):
    flags = ['--seeds=0,1', '--epochs=1', '--grid=model=lecture_cnn,nonexistent', '--together=2']
    done = sweep(tmp_path, *flags, '--jobs=2')
    assert done.returncode == 1, done.stderr
    for seed in (0, 1):
        assert f'failed: model=nonexistent, seed {seed} (exit code 2)' in done.stderr
        folder = tmp_path / 'model=lecture_cnn' / f'seed{seed}'
        assert json.loads((folder / 'config.json').read_text())['seed'] == seed
        assert (folder / 'result.json').exists()
    assert '| model=lecture_cnn | 2 of 2 |' in done.stdout
    log = tmp_path / 'logs/model=lecture_cnn,seed0,and1more.log'
    assert re.search(r'all: test accuracy 0\.\d+ \+- 0\.\d+ \(2 seeds\)', log.read_text())

    evaluated = subprocess.run(
        [sys.executable, 'experiments/evaluate.py', f'--workdir={folder}'],
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
    )
    result = json.loads((folder / 'result.json').read_text())
    assert f'{result["test"]["accuracy"]:.4f}' in evaluated.stdout, evaluated.stderr
    more = ['--seeds=0,1,2', '--epochs=1', '--grid=model=lecture_cnn', '--together=3']
    again = sweep(tmp_path, *more)
    assert again.returncode == 0 and again.stderr.count('already finished') == 2
    assert (tmp_path / 'model=lecture_cnn' / 'seed2' / 'result.json').exists()


def test_programs_share_what_is_equal(tmp_path):
    done = sweep(
        tmp_path,
        '--dry_run',
        '--together=3',
        '--seeds=0,1',
        '--grid=optimizer=sgd,adamw',
        '--grid=learning_rate=1e-2,1e-3',
    )
    lines = done.stdout.replace('\\', '').splitlines()
    assert len(lines) == 4
    assert [line.count('--run=') for line in lines] == [3, 0, 3, 0]
    for line in lines[::2]:
        assert line.index('--optimizer=') < line.index('--run=')
        assert line.count('--seed=0') == 2 and line.count('--learning_rate=1e-3') == 1


@pytest.fixture
def slurm(tmp_path):
    """Runs sweep.sh in a checkout with stand-ins for Slurm; returns the process and the calls."""
    folder, calls = checkout.make(tmp_path / 'checkout'), tmp_path / 'calls'
    shutil.copy(ROOT / 'launch/sweep_table.py', folder / 'launch')
    array = 'for a in "$@"; do [[ $a != --array=*%* ]] || tasks=${a#--array=}; done'
    skip = 'while [[ $1 == --* ]]; do shift; done'
    run = 'for t in ${tasks//,/ }; do SLURM_JOB_ID=4$t SLURM_ARRAY_TASK_ID=$t bash "$@"; done'
    for name, body in {
        'sbatch': f'{array}; tasks=${{tasks%\\%*}}; {skip}; {run}',
        'srun': f'{skip}; exec "$@"',
        'scontrol': ':',
    }.items():
        record = f'#!/usr/bin/env bash\necho "{name} $*" >>"$CALLS"\n'
        checkout.executable(tmp_path / 'bin' / name, f'{record}{body}\n')

    def call(*flags):
        calls.write_text('')
        done = checkout.launch(
            folder,
            'sweep.sh',
            '--sweepdir=runs/a',
            *flags,
            PATH=f'{tmp_path}/bin:{os.environ["PATH"]}',
            CALLS=str(calls),
            CNN_JAX_PYTHON=sys.executable,
            PYTHONPATH=str(folder),
        )
        return done, calls.read_text().splitlines()

    call.folder = folder
    return call


def test_slurm_array_has_a_limit_and_skips_finished_runs(slurm):
    flags = ['--seeds=0,1,2', '--array=2', '--sbatch=--account=me']
    finished = slurm.folder / 'runs/a/run/seed1'
    finished.mkdir(parents=True)
    (finished / 'result.json').write_text('{}')
    done, calls = slurm(*flags)
    assert done.returncode == 0, done.stderr
    options = calls[0].split()
    assert '--array=0,2%2' in options and '--account=me' in options and '--requeue' in options
    assert '--gpus-per-node=1' in options and '--output=runs/a/logs/slurm-%A_%a.log' in options
    assert [call.split()[0] for call in calls] == ['sbatch', 'srun', 'srun']
    assert 'trained --seed=0 --workdir=runs/a/run/seed0' in done.stdout
    assert (slurm.folder / 'runs/a/run/seed2/result.json').exists()
    done, calls = slurm(*flags)
    assert done.returncode == 2 and calls == [] and 'all runs are finished' in done.stderr


def test_slurm_array_task_that_was_preempted_goes_back_into_the_queue(slurm):
    _, calls = slurm('--array=1', '--gpus_per_node=0', '--code=75')
    assert calls[-1] == 'scontrol requeue 40'

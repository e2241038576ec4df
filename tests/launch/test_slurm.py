"""Tests of launch/slurm.sh with stand-ins for sbatch, srun and scontrol.

The stand-ins record how they are called, and run the job here. The tests cannot show that the real
tools accept these flags as their documentation says.
"""

import os
import shutil
import sys

import pytest

from tests.launch import checkout


@pytest.fixture
def slurm(tmp_path):
    """A function that submits a job in a new checkout with stand-ins that run it immediately."""
    folder = checkout.make(tmp_path / 'checkout')
    for name, body in {
        # Skips the options and runs the script with its arguments, as the job would.
        'sbatch': 'while [[ $1 == --* ]]; do shift; done; SLURM_JOB_ID=42 exec bash "$@"',
        'srun': 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
        'scontrol': ':',
    }.items():
        record = f'#!/usr/bin/env bash\necho "{name} $*" >>"$CALLS"\n'
        checkout.executable(tmp_path / 'bin' / name, f'{record}{body}\n')
    calls = tmp_path / 'calls'

    def run(*flags):
        calls.write_text('')
        variables = dict(
            PATH=f'{tmp_path}/bin:{os.environ["PATH"]}',
            CALLS=str(calls),
            CNN_JAX_PYTHON=sys.executable,
            PYTHONPATH=str(folder),
        )
        done = checkout.launch(folder, 'slurm.sh', *flags, **variables)
        return done, calls.read_text().splitlines()

    run.folder = folder
    return run


def test_slurm_job_runs_the_training_and_passes_its_code_on(slurm):
    done, calls = slurm('--workdir=runs/a', '--gpus_per_node=0', '--model=vgg16', '--code=76')
    assert done.returncode == 76, done.stderr
    assert 'trained --workdir=runs/a --model=vgg16 --code=76' in done.stdout
    assert [call.split()[0] for call in calls] == ['sbatch', 'srun']
    for option in (
        '--requeue',
        '--signal=TERM@120',
        '--nodes=1',
        '--output=runs/a/logs/slurm-%j.log',
    ):
        assert option in calls[0].split()
    assert 'coordinator' not in calls[0] and 'gpus' not in calls[0].split(' --')[0]


def test_slurm_job_that_was_preempted_goes_back_into_the_queue(slurm):
    done, calls = slurm('--workdir=runs/a', '--gpus_per_node=0', '--code=75')
    assert done.returncode == 0 and calls[-1] == 'scontrol requeue 42'


def test_slurm_several_gpus_and_options(slurm):
    done, calls = slurm(
        '--workdir=runs/a', '--nodes=2', '--gpus_per_node=4', '--sbatch=--account=me'
    )
    assert done.returncode == 0, done.stderr
    for option in ('--nodes=2', '--ntasks-per-node=4', '--gpus-per-node=4', '--account=me'):
        assert option in calls[0].split()
    assert '--coordinator=auto' in calls[0]


@pytest.mark.parametrize(
    'flags, message',
    [
        ([], '--workdir=DIR is missing'),
        (['--workdir=a', '--nodes=0'], '--nodes=0: must be an integer of at least 1'),
        (['--workdir=a', '--gpus_per_node=x'], '--gpus_per_node=x'),
        (['--workdir=a', 'stray'], 'flags are written --name=value'),
        (['--workdir=gs://bucket/a'], '--workdir=gs://bucket/a: must be a local folder'),
    ],
)
def test_slurm_wrong_calls_are_one_line(slurm, flags, message):
    done, calls = slurm(*flags)
    assert done.returncode == 2 and calls == []
    assert message in done.stderr and done.stderr.count('\n') == 1


def test_no_slurm_is_one_line(tmp_path):
    folder = checkout.make(tmp_path)
    if shutil.which('sbatch'):
        pytest.skip('Slurm is installed here')
    done = checkout.launch(folder, 'slurm.sh', '--workdir=a')
    assert done.returncode == 2 and done.stderr.count('\n') == 1
    assert 'sbatch not found' in done.stderr

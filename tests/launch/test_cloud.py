"""Tests of the Google Cloud and Slurm scripts with stand-ins for gcloud, sbatch, srun and scontrol.

The tests have no access to a cloud or a cluster. The stand-ins record how they are called. What
would run on the remote machine runs locally, in a folder that represents the machine. The tests
cannot show that the real tools accept these flags as their documentation says.
"""

import os
import shutil
import subprocess
import sys

import pytest

from tests.launch import checkout

# ssh runs the command in the folder $MACHINE, scp copies from and to it, `describe` reads a file.
_GCLOUD = """\
    #!/usr/bin/env bash
    set -euo pipefail
    echo "$*" >>"$CALLS"
    [[ "$1 $2 $3" == "compute tpus tpu-vm" ]] || { [[ $1 == config ]] && echo; exit; }
    verb=$4; shift 4
    case $verb in
        describe) [[ -f $MACHINE/state ]] && cat "$MACHINE/state" ;;
        create) mkdir -p "$MACHINE" && echo READY >"$MACHINE/state" ;;
        delete) rm -r "$MACHINE" ;;
        scp)
            [[ $1 == --recurse ]] && shift
            cp -r "${1/#cnn-jax:/$MACHINE/}" "${2/#cnn-jax:/$MACHINE/}"
            ;;
        ssh)
            for flag in "$@"; do
                [[ $flag == --command=* ]] || continue
                cd "$MACHINE"; bash -c "${flag#--command=}"; exit
            done
            ;;
    esac
"""

_WHERE = ['--zone=here', '--project=mine']


@pytest.fixture
def cloud(tmp_path):
    """A function that runs a script in a new checkout with the stand-in for gcloud."""
    folder = checkout.make(tmp_path / 'checkout')
    subprocess.run(['git', 'init', '--quiet'], cwd=folder, check=True)
    checkout.executable(tmp_path / 'bin' / 'gcloud', _GCLOUD)
    calls, machine = tmp_path / 'calls', tmp_path / 'machine'

    def run(script, *flags, path=None):
        calls.write_text('')
        done = checkout.launch(
            folder,
            script,
            *flags,
            PATH=path or f'{tmp_path}/bin:{os.environ["PATH"]}',
            CALLS=str(calls),
            MACHINE=str(machine),
            CNN_JAX_PYTHON=sys.executable,
            PYTHONPATH=str(folder),
        )
        lines = calls.read_text().splitlines()
        verbs = [line.split()[3] for line in lines if line.startswith('compute')]
        return done, verbs

    run.machine, run.folder, run.calls = machine, folder, calls
    return run


def test_tpu_vm_creates_trains_fetches_deletes(cloud):
    done, verbs = cloud('tpu_vm.sh', *_WHERE, '--workdir=runs/a', '--model=vgg16', '--note=a b')
    assert done.returncode == 0, done.stdout + done.stderr
    assert verbs == ['describe', 'create', 'scp', 'ssh', 'ssh', 'scp', 'delete']
    assert 'trained --workdir=runs/a --model=vgg16 --note=a b' in done.stdout
    assert (cloud.folder / 'runs/a/result.json').exists()
    assert 'trained' in (cloud.folder / 'runs/a/logs/tpu_vm.log').read_text()
    assert not cloud.machine.exists()
    calls = cloud.calls.read_text().splitlines()
    assert all('--zone=here --project=mine' in call for call in calls)
    assert '--accelerator-type=v5litepod-1' in calls[1]


def test_kept_machine_is_used_again_and_a_preempted_one_made_anew(cloud):
    done, _ = cloud('tpu_vm.sh', *_WHERE, '--workdir=runs/a', '--keep')
    assert done.returncode == 0 and cloud.machine.exists()
    assert 'to delete it: gcloud compute tpus tpu-vm delete cnn-jax' in done.stdout
    _, verbs = cloud('tpu_vm.sh', *_WHERE, '--workdir=runs/b', '--keep')
    assert verbs == ['describe', 'scp', 'ssh', 'ssh', 'scp']
    (cloud.machine / 'state').write_text('PREEMPTED\n')
    _, verbs = cloud('tpu_vm.sh', *_WHERE, '--workdir=runs/c', '--spot')
    assert verbs[:3] == ['describe', 'delete', 'create']
    assert '--spot' in cloud.calls.read_text()


def test_failed_training_is_fetched_and_its_code_passed_on(cloud):
    done, verbs = cloud('tpu_vm.sh', *_WHERE, '--workdir=runs/a', '--code=76')
    assert done.returncode == 76 and verbs[-2:] == ['scp', 'delete']


def test_machine_is_left_when_nothing_could_be_fetched(cloud):
    done, verbs = cloud('tpu_vm.sh', *_WHERE, '--workdir=/nowhere/that/can/be/made', '--keep')
    assert done.returncode != 0 and 'delete' not in verbs
    assert 'NOT DELETED' in done.stdout and cloud.machine.exists()


def test_pod_runs_on_all_workers_and_needs_a_common_disk(cloud, tmp_path):
    done, verbs = cloud('tpu_pod.sh', *_WHERE, '--workdir=runs/a')
    assert done.returncode == 2 and verbs == []
    assert 'on a disk that all workers' in done.stderr and done.stderr.count('\n') == 1
    done, _ = cloud('tpu_pod.sh', *_WHERE, f'--workdir={tmp_path}/common', '--dry_run')
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and '--accelerator-type=v5litepod-16' in lines[0]
    assert sum('--worker=all' in line for line in lines) == 3
    assert '--coordinator=auto' in next(line for line in lines if 'local.sh' in line)


@pytest.mark.parametrize('script', ['tpu_vm.sh', 'tpu_pod.sh'])
@pytest.mark.parametrize(
    'flags, message',
    [
        ([], '--workdir=DIR is missing'),
        (['--workdir=/a', '--zone=here'], 'no project'),
        (['--workdir=/a', '--project=mine'], 'no zone'),
        (['--workdir=/a', 'stray'], 'flags are written --name=value'),
    ],
)
def test_wrong_calls_are_one_line(cloud, script, flags, message):
    done, _ = cloud(script, *flags)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count('\n') == 1


def test_no_gcloud_is_one_line(cloud, tmp_path):
    for tool in ('bash', 'basename', 'dirname'):
        (tmp_path / 'few' / tool).parent.mkdir(exist_ok=True)
        (tmp_path / 'few' / tool).symlink_to(shutil.which(tool))
    done, _ = cloud('tpu_vm.sh', *_WHERE, '--workdir=a', path=str(tmp_path / 'few'))
    assert done.returncode == 2 and done.stderr.count('\n') == 1
    assert 'gcloud not found: install the Google Cloud CLI' in done.stderr


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

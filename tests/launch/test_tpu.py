"""Tests of launch/tpu_vm.sh and launch/tpu_pod.sh with a stand-in for gcloud.

What would run on the remote machine runs locally, in a folder that represents the machine. The
tests cannot show that the real tool accepts these flags as its documentation says.
"""

import shutil

import pytest

WHERE = ['--zone=here', '--project=mine']


def verbs(google):
    """Returns the verbs of the last script's calls."""
    return [call.split()[3] for call in google.calls() if call.startswith('compute')]


def test_tpu_vm_creates_trains_fetches_deletes(google):
    flags = [*WHERE, '--workdir=runs/a', '--model=vgg16', '--note=a b']
    code, output = google.run('tpu_vm.sh', *flags, '--create=--internal-ips')
    assert code == 0, output
    assert verbs(google) == ['create', 'scp', 'ssh', 'ssh', 'scp', 'delete']
    assert 'trained --workdir=runs/a --model=vgg16 --note=a b' in output
    assert (google.checkout / 'runs/a/result.json').exists()
    assert 'trained' in (google.checkout / 'runs/a/logs/tpu_vm.log').read_text()
    assert google.what_is_left() == []
    assert all('--zone=here --project=mine' in call for call in google.calls())
    options = ['--node-id=cnn-jax', '--accelerator-type=v5litepod-1', '--internal-ips']
    assert set(options) < set(google.calls()[0].split()) and '--spot' not in google.calls()[0]


def test_kept_machine_is_used_again_and_a_preempted_one_made_anew(google):
    code, output = google.run('tpu_vm.sh', *WHERE, '--workdir=runs/a', '--keep')
    assert code == 0 and google.machine.exists()
    wanted = 'queued-resources delete cnn-jax --force --zone=here --project=mine'
    assert f'to delete it: gcloud compute tpus {wanted}' in output
    google.run('tpu_vm.sh', *WHERE, '--workdir=runs/b', '--keep')
    assert verbs(google) == ['scp', 'ssh', 'ssh', 'scp']
    google.set_state('SUSPENDED')
    google.run('tpu_vm.sh', *WHERE, '--workdir=runs/c', '--spot', '--tries=1')
    assert verbs(google)[:2] == ['delete', 'create'] and '--spot' in google.calls()[1]


def test_failed_training_is_fetched_and_its_code_passed_on(google):
    code, _ = google.run('tpu_vm.sh', *WHERE, '--workdir=runs/a', '--code=76')
    assert code == 76 and verbs(google)[-2:] == ['scp', 'delete']


def test_machine_is_left_when_nothing_could_be_fetched(google):
    code, output = google.run('tpu_vm.sh', *WHERE, '--workdir=/nowhere/that/can/be/made')
    assert code != 0 and 'delete' not in verbs(google)
    assert 'NOT DELETED' in output and google.machine.exists()


def test_machine_is_deleted_after_a_wrong_flag(google):
    (google.checkout / 'experiments/train.py').write_text('raise SystemExit(2)')
    code, _ = google.run('tpu_vm.sh', *WHERE, '--workdir=runs/a')
    assert code == 2 and google.what_is_left() == []


def test_pod_runs_on_all_workers_and_needs_a_common_disk(google, tmp_path):
    for workdir in ('runs/a', 'gs://bucket/a'):
        code, output = google.run('tpu_pod.sh', *WHERE, f'--workdir={workdir}')
        assert code == 2 and google.calls() == []
        assert 'on a disk that all workers' in output and output.count('\n') == 1
    code, output = google.run('tpu_pod.sh', *WHERE, f'--workdir={tmp_path}/common', '--dry_run')
    lines = output.splitlines()
    assert code == 0 and '--accelerator-type=v5litepod-16' in lines[0]
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
        (['--workdir=/a', *WHERE, '--tries=0'], '--tries=0: must be an integer of at least 1'),
    ],
)
def test_wrong_calls_are_one_line(google, script, flags, message):
    code, output = google.run(script, *flags)
    assert code == 2 and message in output and output.count('\n') == 1


def test_no_gcloud_is_one_line(google, tmp_path):
    for tool in ('bash', 'basename', 'dirname'):
        (tmp_path / 'few' / tool).parent.mkdir(exist_ok=True)
        (tmp_path / 'few' / tool).symlink_to(shutil.which(tool))
    google.environment['PATH'] = str(tmp_path / 'few')
    code, output = google.run('tpu_vm.sh', *WHERE, '--workdir=a')
    assert code == 2 and output.count('\n') == 1
    assert 'gcloud not found: install the Google Cloud CLI' in output

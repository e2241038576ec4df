"""launch/local.sh and launch/test.sh on a fresh checkout: install, rerun, repair, report errors."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from cnn_jax.doctor import mimalloc
from tests.launch import checkout


def shown_by_python(python, text, folder, variables):
    """Runs local.sh with an interpreter that expands a text instead of running the training."""
    script = f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\necho {text}'
    python.parent.mkdir(exist_ok=True)
    checkout.executable(python, script)
    run = checkout.launch(folder, 'local.sh', CNN_JAX_PYTHON=str(python), **variables)
    assert run.returncode == 0 and not run.stderr, run.stderr
    return run.stdout.strip()


@pytest.fixture
def fresh(tmp_path):
    return checkout.make(tmp_path / 'a checkout')  # a space in the path, as on many laptops


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    folder = checkout.make(tmp_path_factory.mktemp('checkout'))
    first = checkout.launch(folder, 'local.sh', '--epochs=3', '--name=a b', PYTHON=sys.executable)
    assert first.returncode == 0, first.stderr
    assert first.stdout == 'trained --epochs=3 --name=a b\n'
    assert 'making' in first.stderr and 'installing cnn_jax[' in first.stderr
    return folder


def test_second_run_installs_nothing(installed):
    again = checkout.launch(installed, 'local.sh', '--epochs=4')
    assert (again.returncode, again.stdout, again.stderr) == (0, 'trained --epochs=4\n', '')


def test_exit_code_of_the_training_is_passed_on(installed):
    assert checkout.launch(installed, 'local.sh', '--code=7').returncode == 7


def test_output_is_kept_in_the_workdir_but_not_in_a_foreign_folder(installed):
    run = checkout.launch(installed, 'local.sh', '--workdir=runs/a')
    assert run.returncode == 0 and run.stdout == 'trained --workdir=runs/a\n'
    assert run.stdout in (installed / 'runs/a/logs/local.log').read_text()
    (installed / 'mine').mkdir()
    (installed / 'mine' / 'thesis.txt').write_text('mine')
    run = checkout.launch(installed, 'local.sh', '--workdir=mine', '--code=2')
    assert run.returncode == 2 and not (installed / 'mine' / 'logs').exists()


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='a setting of glibc')
@pytest.mark.parametrize('of_the_user', ['', 'glibc.malloc.check=0'])
def test_huge_pages_on_a_cpu_unless_the_user_says_otherwise(fresh, of_the_user):
    variables = {'GLIBC_TUNABLES': of_the_user} if of_the_user else {}
    shown = shown_by_python(fresh / 'python', '$GLIBC_TUNABLES', fresh, variables)
    assert shown == (of_the_user or 'glibc.malloc.hugetlb=1')


@pytest.mark.skipif(mimalloc() is None, reason='needs cmeel-mimalloc')
@pytest.mark.parametrize('of_the_user', [None, ''])
def test_mimalloc_is_preloaded_on_a_cpu_unless_the_user_says_otherwise(tmp_path, of_the_user):
    library = tmp_path / 'lib/python3.11/site-packages/cmeel.prefix/lib/libmimalloc.so'
    library.parent.mkdir(parents=True)
    library.symlink_to(mimalloc())
    variables = {} if of_the_user is None else {'LD_PRELOAD': of_the_user}
    folder = checkout.make(tmp_path / 'checkout')
    # The map of a process shows whether the dynamic linker accepted the library.
    script = '$MIMALLOC_ALLOW_THP $MIMALLOC_PURGE_DELAY $(grep -c libmimalloc /proc/self/maps)'
    shown = shown_by_python(tmp_path / 'bin/python', script, folder, variables)
    assert shown == '0' if of_the_user == '' else re.fullmatch(r'2 10000 [1-9]\d*', shown), shown


@pytest.mark.skipif(mimalloc() is None, reason='needs cmeel-mimalloc')
def test_mimalloc_is_not_preloaded_from_a_path_that_the_linker_would_split(fresh):
    library = fresh / 'lib/python3.11/site-packages/cmeel.prefix/lib/libmimalloc.so'
    library.parent.mkdir(parents=True)
    library.symlink_to(mimalloc())
    assert shown_by_python(fresh / 'bin/python', '"$LD_PRELOAD"', fresh, {}) == ''


@pytest.mark.parametrize('of_the_user', [None, '', '/mine'])
def test_compiled_programs_are_kept_unless_the_user_says_otherwise(fresh, of_the_user):
    python = fresh / 'python'
    wanted = 'echo "$JAX_COMPILATION_CACHE_DIR $JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"'
    checkout.executable(python, f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} "$@"\n{wanted}')
    variables = {} if of_the_user is None else {'JAX_COMPILATION_CACHE_DIR': of_the_user}
    run = checkout.launch(
        fresh, 'local.sh', CNN_JAX_PYTHON=str(python), XDG_CACHE_HOME='/cache', **variables
    )
    assert run.returncode == 0, run.stderr
    folder = r'/cache/cnn_jax/jax-\d+' if of_the_user is None else of_the_user
    assert re.fullmatch(folder + ' 0.2', run.stdout.strip('\n'))


def test_other_extras_or_another_pyproject_install_again(installed):
    other = checkout.launch(installed, 'local.sh', CNN_JAX_EXTRAS='train,cpu,test')
    assert other.returncode == 0 and 'installing cnn_jax[train,cpu,test]' in other.stderr
    with open(installed / 'pyproject.toml', 'a') as file:
        file.write('# changed\n')
    changed = checkout.launch(installed, 'local.sh', CNN_JAX_EXTRAS='train,cpu,test')
    assert changed.returncode == 0 and 'installing' in changed.stderr
    assert 'making' not in changed.stderr  # the environment itself is kept
    fewer = checkout.launch(installed, 'local.sh')
    assert (fewer.returncode, fewer.stderr) == (0, '')  # the installed extras are enough


def test_cut_off_installation_is_repaired(fresh):
    (fresh / 'hold').touch()
    process = subprocess.Popen(
        ['bash', 'launch/local.sh'],
        cwd=fresh,
        env=checkout.environment(fresh, PYTHON=sys.executable),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (fresh / 'building').exists():
        assert process.poll() is None, 'ended before pip built the package'
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (fresh / 'hold').unlink()
    # The installation of pip is incomplete, too.
    shutil.rmtree(next((fresh / '.venv').glob('lib/python*/site-packages/pip')))
    again = checkout.launch(fresh, 'local.sh', '--epochs=1', PYTHON=sys.executable)
    assert again.returncode == 0, again.stderr
    assert again.stdout == 'trained --epochs=1\n'


def test_foreign_folder_in_place_of_the_environment_is_left_alone(fresh):
    precious = fresh / '.venv' / 'thesis.txt'
    precious.parent.mkdir()
    precious.write_text('mine')
    result = checkout.launch(fresh, 'local.sh')
    assert result.returncode == 2
    assert 'is not a virtual environment' in result.stderr and result.stderr.count('\n') == 1
    assert precious.read_text() == 'mine'


@pytest.mark.parametrize('old', ['exit 1', 'exit 127'])
def test_old_or_broken_python_is_one_line(fresh, old):
    checkout.executable(fresh / 'bin' / 'python3', f'#!/bin/sh\n{old}\n')
    result = checkout.launch(fresh, 'local.sh', PYTHON=str(fresh / 'bin' / 'python3'))
    assert result.returncode == 2 and not (fresh / '.venv').exists()
    assert 'Python 3.11 or newer' in result.stderr and result.stderr.count('\n') == 1


def test_no_python_at_all_is_one_line(fresh):
    for tool in ('bash', 'basename', 'dirname', 'cat', 'cksum', 'mkdir', 'flock'):
        if found := shutil.which(tool):
            (fresh / 'bin').mkdir(exist_ok=True)
            (fresh / 'bin' / tool).symlink_to(found)
    result = checkout.launch(fresh, 'local.sh', PATH=str(fresh / 'bin'))
    assert result.returncode == 2
    assert 'needs Python 3.11 or newer, found none' in result.stderr
    assert result.stderr.count('\n') == 1


@pytest.mark.parametrize('script', ['local.sh', 'test.sh', 'accelerator_report.sh'])
def test_dry_run_prints_the_command_and_touches_nothing(fresh, script):
    result = checkout.launch(fresh, script, '--dry_run', '--name=a b')
    assert result.returncode == 0, result.stderr
    assert r'--name=a\ b' in result.stdout and 'would install' in result.stderr
    assert not (fresh / '.venv').exists()


@pytest.mark.parametrize(
    'script',
    [p.name for p in sorted((checkout.ROOT / 'launch').glob('*.sh')) if os.access(p, os.X_OK)],
)
def test_help_says_what_it_does(fresh, script):
    result = checkout.launch(fresh, script, '--help')
    assert result.returncode == 0 and result.stderr == ''
    assert f'bash launch/{script}' in result.stdout and '--dry_run' in result.stdout
    assert not (fresh / '.venv').exists()

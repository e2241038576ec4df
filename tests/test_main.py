"""Tests of the `cnn-jax` command, which runs every script by its name from any folder."""

import pathlib
import subprocess
import sys

import pytest

from cnn_jax import __main__ as command

ROOT = pathlib.Path(__file__).parents[1]


def run(tmp_path, *arguments):
    return subprocess.run(
        [sys.executable, '-m', 'cnn_jax', *arguments], cwd=tmp_path, capture_output=True, text=True
    )


def test_lists_every_script(tmp_path):
    shown = run(tmp_path, '--help')
    assert shown.returncode == 0, shown.stderr
    listed = {line.split()[0] for line in shown.stdout.splitlines()[2:]}
    scripts = {path.stem for path in (ROOT / 'experiments').glob('*.py')}
    assert listed == scripts | {'doctor', 'run'}


def test_runs_a_script_with_its_flags_and_exit_code(tmp_path):
    shown = run(tmp_path, 'train', '--list_datasets')
    assert shown.returncode == 0 and 'digits' in shown.stdout, shown.stderr
    wrong = run(tmp_path, 'train', '--model=lecture_cn')
    assert wrong.returncode == 2 and 'lecture_cn' in wrong.stderr
    assert wrong.stderr.count('\n') == 1, wrong.stderr


def test_unknown_command_names_the_nearest(tmp_path):
    wrong = run(tmp_path, 'trian')
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: unknown command 'trian'; did you mean 'train'?")


@pytest.mark.parametrize('flag', ['--flagfile', '-flagfile'])
def test_recipes_are_found_from_any_folder(tmp_path, monkeypatch, flag):
    monkeypatch.chdir(tmp_path)
    given = f'{flag}=experiments/recipes/mnist1d_cnn.flags'
    assert command.recipe(given) == f'{flag}={ROOT}/experiments/recipes/mnist1d_cnn.flags'
    own = tmp_path / 'mnist1d_cnn.flags'
    own.write_text('--epochs=1')
    assert command.recipe(f'{flag}={own}') == f'{flag}={own}'  # an existing file takes precedence
    assert command.recipe('--model=mnist1d_cnn') == '--model=mnist1d_cnn'

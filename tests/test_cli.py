"""Tests of what a script prints for invalid input and for a bug."""

import pytest

from cnn_jax import cli
from cnn_jax.errors import MissingPackageError, UserError, UserTypeError


@pytest.mark.parametrize('error', [UserError, UserTypeError, MissingPackageError, OSError])
def test_bad_input_is_one_line(error, capsys, monkeypatch):
    monkeypatch.delenv('CNN_JAX_TRACEBACK', raising=False)
    with pytest.raises(SystemExit) as stop, cli.bad_input():
        raise error('x=3:\n  must be even')
    assert stop.value.code == 2
    assert capsys.readouterr().err == 'error: x=3: must be even\n'


@pytest.mark.parametrize('bug', [ValueError, TypeError, ImportError, KeyError])
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(bug), cli.bad_input():
        raise bug('in the code')


def test_the_traceback_of_bad_input_can_be_seen(capsys, monkeypatch):
    monkeypatch.setenv('CNN_JAX_TRACEBACK', '1')
    with pytest.raises(SystemExit), cli.bad_input():
        raise UserError('wrong')
    assert 'Traceback' in capsys.readouterr().err

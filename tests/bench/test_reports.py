"""Tests of reports: the program in a report runs as it stands, and bad input is refused."""

import re

import jax
import pytest

from cnn_jax.bench.reports import report
from cnn_jax.errors import UserError

PROGRAM = 'import jax.numpy as jnp\n\nprint(float(jnp.float32(1) + 1))\n'


def test_report_is_complete(monkeypatch, capsys):
    monkeypatch.setenv('XLA_FLAGS', '')
    text = report('Sum is wrong', PROGRAM, '2.0', '3.0', related=['https://example.org/1'])
    exec(re.search(r'```python\n(.*?)```', text, re.DOTALL)[1], {})
    assert capsys.readouterr().out == '2.0\n'
    for part in ('# Sum is wrong', '2.0', '3.0', 'example.org/1', f'jax {jax.__version__}'):
        assert part in text
    assert "XLA_FLAGS=''" in text


@pytest.mark.parametrize(
    ('title', 'program', 'message'),
    [
        ('a\nb', PROGRAM, 'one line'),
        ('a', 'print(', 'not valid Python'),
        ('a', 'from cnn_jax import conv', 'without it'),
        ('a', 'def f():\n    import cnn_jax.ops', 'without it'),
    ],
)
def test_bad_reports_are_refused(title, program, message):
    with pytest.raises(UserError, match=message):
        report(title, program, '', '')

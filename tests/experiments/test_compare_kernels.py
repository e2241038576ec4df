"""Tests compare_kernels.py: table, JSON and pictures of one small problem, and bad input."""

import json

import pytest
from matplotlib.image import imread

from tools import scripts

pytestmark = pytest.mark.slow


def test_one_problem(tmp_path):
    text = scripts.run(
        'compare_kernels.py',
        '--problems=mb2_ic3ih6oc4kh3ph1',
        '--kernels=lax,scan,dot',
        '--rounds=2',
        '--limit=0.05',
        f'--output={tmp_path}',
    )
    assert '0 wrong results' in text.splitlines()[-1]
    assert 'needs a 1x1 window' in text and 'filter gradient' in text
    rows = json.loads((tmp_path / 'results.json').read_text())['rows']
    assert len(rows) == 9
    for row in rows:
        assert row['right'] if row['kernel'] != 'dot' else row['reason']
    for name in ('bars_float32', 'roofline_float32'):
        assert imread(tmp_path / f'{name}.png').std() > 0.01
    assert (tmp_path / 'table.txt').read_text().count('lax') >= 3


def test_bad_input():
    lines = scripts.errors(
        'compare_kernels.py',
        ('--problems=mb2_ic3ih6oc4kh3ph1,ic3oc',),
        ('--suite=none',),
        ('--suite=small', '--kernels=nope'),
    )
    expected = (
        "problem 'ic3oc': cannot read 'oc'",
        'must be one of lecture',
        "unknown kernel 'nope'",
    )
    for line, part in zip(lines, expected, strict=True):
        assert line.startswith('error: ') and part in line

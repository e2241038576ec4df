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


def test_a_file_of_benchdnn(tmp_path):
    file = tmp_path / 'shapes_net'
    file.write_text('--dir=FWD_I --dt=bf16,u8:s8:u8 mb4ic3ih6oc4kh3ph1n"net:conv*3"\n')
    text = scripts.run(
        'compare_kernels.py',
        f'--suite={file}',
        '--sample=1',
        '--batch_size=2',
        '--kernels=lax,default',
        '--rounds=1',
        '--limit=0.01',
        '--cold_cache',
        f'--output={tmp_path}',
    )
    assert 'left out: problems of --dt=u8:s8:u8 (1)' in text
    assert text.splitlines()[-1].startswith('every layer as often as it occurs: 3 passes in total')
    (row, *_) = json.loads((tmp_path / 'results.json').read_text())['rows']
    assert row['problem'] == 'mb2_ic3ih6oc4kh3ph1' and row['dtype'] == 'bfloat16'
    assert row['direction'] == 'forward' and row['steady_s'] > 0


def test_bad_input(tmp_path):
    file = tmp_path / 'shapes'
    file.write_text('\nic3ih6oc4\n')
    lines = scripts.errors(
        'compare_kernels.py',
        ('--problems=mb2_ic3ih6oc4kh3ph1,ic3oc',),
        ('--suite=none',),
        ('--suite=small', '--kernels=nope'),
        (f'--suite={file}',),
    )
    expected = (
        "problem 'ic3oc': cannot read 'oc'",
        'must be one of lecture',
        "unknown kernel 'nope'",
        f"{file}:2: problem 'ic3ih6oc4': kh is missing",
    )
    for line, part in zip(lines, expected, strict=True):
        assert line.startswith('error: ') and part in line

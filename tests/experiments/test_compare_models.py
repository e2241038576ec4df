"""Tests compare_models.py: the table of one small model, and bad input."""

import importlib.util
import json

import pytest

from tools import scripts

pytestmark = pytest.mark.slow


@pytest.mark.skipif(
    importlib.util.find_spec('torchvision') is None, reason='needs the extra compare'
)
def test_one_model(tmp_path):
    small = ('--batch_size=2', '--image_size=64', '--rounds=1', '--seconds=0')
    text = scripts.run(
        'compare_models.py', '--models=mobilenet_v3_small', *small, f'--output={tmp_path}'
    )
    assert text.splitlines()[-1] == f'1 models timed; written to {tmp_path}'
    (row,) = json.loads((tmp_path / 'results.json').read_text())['models']
    assert row['parameters'] == 2_542_856 and min(row['native'], row['torch']) > 0
    assert '| `mobilenet_v3_small` | 2,542,856 | ' in (tmp_path / 'table.md').read_text()


def test_bad_input():
    lines = scripts.errors('compare_models.py', ('--models=resnet5',), ('--dtype=half',))
    assert "unknown model 'resnet5'" in lines[0] and 'dtype' in lines[1]

"""Tests experiments/inspect_model.py on an actual training run."""

import json

import pytest

from tools import scripts

pytestmark = pytest.mark.slow


def test_a_trained_run_and_what_is_refused(tmp_path):
    run, output = tmp_path / 'run', tmp_path / 'out'
    scripts.run('train.py', '--dataset=digits', '--epochs=2', f'--workdir={run}')
    text = scripts.run('inspect_model.py', f'--workdir={run}', '--search=100', f'--output={output}')
    # 64·9·1·32 + 16·9·32·64 + 256·128 + 128·10 multiply-adds
    assert '53,002 parameters, 347,392 multiply-adds' in text.splitlines()[-1]
    names = {path.name for path in output.iterdir()}
    assert names >= {
        'table.json',
        'filters.png',
        'feature_maps.png',
        'confusion_matrix.png',
        'attention.png',
        'receptive_fields.png',
        'patches.png',
    }
    rows = json.loads((output / 'table.json').read_text())
    assert [row['name'] for row in rows if row['kernel']] == ['conv1', 'conv2']
    lines = scripts.errors(
        'inspect_model.py',
        (f'--workdir={run}', '--model=vgg16'),
        (f'--workdir={tmp_path}',),
        ('--model=nope',),
        (f'--workdir={run}', '--images=100000'),
    )
    expected = ('holds lecture_cnn, not model=vgg16', str(tmp_path), 'nope', 'must lie in [0, 355)')
    for line, part in zip(lines, expected, strict=True):
        assert line.startswith('error: ') and part in line

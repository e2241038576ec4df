"""The notebook matches its text source and runs from top to bottom with small parameters."""

import json
import os

import jupytext
import nbclient
import nbformat

from tests.launch.checkout import ROOT

SOURCE, NOTEBOOK = ROOT / 'launch' / 'colab.py', ROOT / 'launch' / 'colab.ipynb'


def test_notebook_is_what_its_source_says():
    cells = [
        [(cell.cell_type, cell.source) for cell in notebook.cells]
        for notebook in (jupytext.read(SOURCE), nbformat.read(NOTEBOOK, as_version=4))
    ]
    assert cells[0] == cells[1], 'run: jupytext --to ipynb launch/colab.py'
    assert not any(cell.get('outputs') for cell in nbformat.read(NOTEBOOK, as_version=4).cells)


def test_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = next(c for c in notebook.cells if 'parameters' in c.metadata.get('tags', []))
    small = {'DATASET': 'digits', 'EPOCHS': 1.0, 'WORKDIR': str(tmp_path / 'run')}
    small['REPORT'] = ['--small', '--parts=input']
    parameters.source += ''.join(f'\n{name} = {value!r}' for name, value in small.items())
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('JAX_PLATFORMS', os.environ.get('JAX_PLATFORMS', ''))
    client = nbclient.NotebookClient(
        notebook, timeout=None, kernel_name='python3', resources={'metadata': {'path': ROOT}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get('outputs', [])]
    text = ''.join(output.get('text', '') for output in outputs if output.output_type == 'stream')
    assert text.count('test accuracy') == 2 and text.count('already finished at step') == 1
    assert 'resuming' not in text
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 4
    assert 'largest difference from lax' in text
    assert json.loads((tmp_path / 'run-report' / 'report.json').read_text())['machine']
    assert any('images read ahead' in str(output.get('data')) for output in outputs)
    if folder := os.environ.get('CNN_JAX_KEEP_NOTEBOOK'):
        nbformat.write(notebook, os.path.join(folder, 'colab-executed.ipynb'))

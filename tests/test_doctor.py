"""Tests that the doctor finds problems and reports them in its exit code."""

import json
import types

import pytest

from cnn_jax import doctor
from cnn_jax.bench.process import run_python
from cnn_jax.ops import kernels


@pytest.fixture
def quick(monkeypatch):
    peaks = {'gemm_gflops': {'float32': 1.0, 'bfloat16': 1.0}, 'bandwidth_gbs': 1.0}
    monkeypatch.setattr(doctor.machine, 'peaks', lambda: peaks)
    monkeypatch.setattr(doctor, 'DTYPES', ('float32',))
    monkeypatch.setattr(doctor, 'POOLS', ())


def test_healthy(quick, tmp_path, capsys):
    path = tmp_path / 'found.json'
    assert doctor.main([f'--json={path}', f'--data_dir={tmp_path}', '--kernels=lax,dot']) == 0
    text = capsys.readouterr().out
    assert 'none wrong' in text.splitlines()[-1] and 'float32 (error' in text
    found = json.loads(path.read_text())
    assert [c['problem'] for c in found['kernels'] if c['kernel'] == 'dot'][0].endswith('kw1')
    assert all(c['right'] for c in found['kernels']) and len(found['kernels']) == 6


def test_the_allocator_and_how_to_change_it():
    pytest.importorskip('cmeel', reason='cmeel-mimalloc is not installed (extra: cpu)')
    show = ['-c', 'from cnn_jax import doctor; print(doctor.allocator())']
    found = run_python(show, environment={'LD_PRELOAD': ''}, what='doctor').strip()
    before, _, line = found.partition('export ')
    assert before.startswith("the system's allocator")
    variables = dict(word.split('=') for word in line.split())
    assert run_python(show, environment=variables, what='doctor').strip() == 'mimalloc, preloaded'


def test_a_wrong_kernel_is_found(quick, monkeypatch, capsys, tmp_path):
    def forward(x, w, spec):
        return kernels.KERNELS['lax'].forward(x, w, spec) * (1 + 1e-3 * (spec.ndim == 2))

    def supports(spec, op, platform):
        return 'no third axis' if spec.ndim == 3 else None

    monkeypatch.setitem(
        kernels.KERNELS._values, 'wrong', types.SimpleNamespace(forward=forward, supports=supports)
    )
    monkeypatch.setattr(doctor.dispatch, 'implementations', lambda op: ('wrong',))
    assert doctor.main([f'--data_dir={tmp_path}']) == 1
    text = capsys.readouterr().out
    assert '1 WRONG' in text and 'wrong, 2-D, float32: WRONG, error 1e-03' in text
    assert 'wrong, 3-D, float32: not supported: no third axis' in text


def test_unknown_kernel_is_refused_with_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stop:
        doctor.main(['--kernels=nope'])
    assert stop.value.code == 2
    assert "unknown kernel 'nope'; must be one of" in capsys.readouterr().err

"""Tests of the report on a device: budget, parts that fail or run out of time, and its table."""

import json
import subprocess

import numpy as np
import pytest

from cnn_jax.bench import process
from cnn_jax.bench.accelerator import parts, report, tables
from cnn_jax.bench.accelerator.report import Budget, Settings
from cnn_jax.inspection import flops

MACHINE = {
    'platform': 'tpu', 'device_kind': 'TPU v9', 'devices': 1, 'device_memory_bytes': 2**34,
    'versions': {'jax': '1.0'}, 'torch': {'torch': None},
    'peaks': {'gemm_gflops': {'bfloat16': 2e5}, 'bandwidth_gbs': 800.0},
}  # fmt: skip


class Counter:
    def __init__(self):
        self.expected = self.finished = 0

    def expect(self, count):
        self.expected += count

    def done(self, text):
        self.finished += 1


def test_a_part_may_use_its_share_and_what_earlier_parts_left():
    now = [100.0]
    budget = Budget(10, clock=lambda: now[0])
    assert budget.left('machine') == pytest.approx(0.08 * 600)
    now[0] += 10
    assert budget.left('checks') == pytest.approx(0.23 * 600 - 10)
    assert budget.left('input') == pytest.approx(590)
    assert sum(report.SHARES.values()) == pytest.approx(1)


def test_a_part_that_fails_is_recorded_and_the_rest_goes_on():
    settings = Settings(small=True, suite='none', parts=('kernels', 'input'), minutes=5)
    progress = Counter()
    *_, found = report.run(settings, progress, flops.macs)
    assert found['machine']['platform'] == 'cpu'
    assert found['machine']['peaks']['bandwidth_gbs'] > 0
    status = {name: (part['status'], part['reason']) for name, part in found['parts'].items()}
    assert status['machine'] == ('complete', '')
    assert status['checks'] == status['training'] == ('skipped', 'not asked for')
    assert status['kernels'] == ('failed', "RuntimeError: kernels failed: KeyError: 'none'")
    assert status['input'] == ('complete', '')
    alone, resident, ahead = found['parts']['input']['rows']
    assert alone['waits'] is None and 0 <= resident['waits'] <= 1 and 0 <= ahead['waits'] <= 1
    assert ahead['step_s'] > 0
    assert progress.expected == progress.finished == 2 + 3
    assert json.loads(json.dumps(found)) and "KeyError: 'none'" in tables.markdown(found)


def test_without_time_nothing_is_started():
    *_, found = report.run(Settings(minutes=0.01), Counter(), flops.macs)
    assert {part['status'] for part in found['parts'].values()} == {'out of time'}
    assert 'could not be described' in tables.markdown(found)


def test_lines_of_a_process_that_is_killed_are_kept():
    code = 'import time; print(input()); print(2, flush=True); time.sleep(600)'
    lines = process.stream_python(['-c', code], what='it', given='1\n', timeout=2)
    assert [next(lines), next(lines)] == ['1\n', '2\n']
    with pytest.raises(subprocess.TimeoutExpired):
        next(lines)


def test_a_process_that_dies_is_an_error_after_its_lines():
    lines = process.stream_python(['-c', 'print(1); 1 / 0'], what='it', given='', timeout=60)
    assert next(lines) == '1\n'
    with pytest.raises(RuntimeError, match='it failed: ZeroDivisionError: division by zero'):
        next(lines)


def test_checks_are_right():
    total, *found = parts.checks(Settings(small=True))
    assert total['total'] == len(found) == 2 * 3
    rows = [row for one in found for row in one['rows']]
    assert {row['dtype'] for row in rows} == {'float32', 'bfloat16'}
    assert not [row for row in rows if row['right'] is False]
    assert sum(row['right'] is True for row in rows) > 20


def test_half_the_batch_where_the_whole_does_not_fit(monkeypatch):
    """Stands in for a device that is out of memory, which no test can have."""
    batches = []

    def run(network, dtype, side, seconds, *, device, timeout):
        batches.append(network.inputs[0])
        if network.inputs[0] > 16:
            raise RuntimeError(f'{side} failed: XlaRuntimeError: RESOURCE_EXHAUSTED: ...')
        return {
            'step_s': [0.5, 0.25, 0.5], 'compile_s': 1.0, 'parameters': 7, 'device_bytes': 2**30,
            'memory_bytes': 1,
        }  # fmt: skip

    monkeypatch.setattr(report.steps, 'run', run)
    settings = Settings(batch_size=64, networks=('airbench', 'resnet18'), image_size=64)
    rows = []
    status, _ = report._training(settings, MACHINE, Budget(10), rows, Counter(), flops.macs)
    assert status == 'complete'
    assert batches == [512, 256, 128, 64, 32, 16, 64, 32, 16]
    ours, other, *missing = rows
    assert (ours['network'], ours['batch_size'], ours['image_size']) == ('airbench', 16, 32)
    assert other['batch_size'] == 16 and tables.throughput(other) == 32
    assert [row['reason'] for row in missing] == ['PyTorch is not timed on the platform tpu'] * 2


def test_a_network_that_hangs_leaves_time_for_the_others(monkeypatch):
    now, timeouts = [0.0], []

    def run(*args, timeout, **kwargs):
        timeouts.append(timeout)
        now[0] += timeout
        raise subprocess.TimeoutExpired('it', timeout)

    monkeypatch.setattr(report.steps, 'run', run)
    settings = Settings(networks=('airbench',) * 8, pytorch=False)
    budget = Budget(10, clock=lambda: now[0])
    rows = []
    status, why = report._training(settings, MACHINE, budget, rows, Counter(), flops.macs)
    assert (status, why) == ('out of time', '8 of 16 networks')
    assert timeouts[0] == pytest.approx(0.9 * 600 * 4 / 8) and len(timeouts) == 5
    assert sum(timeouts) == pytest.approx(0.9 * 600)
    assert [row.get('reason') for row in rows[:8]] == ['out of time'] * 8


def test_a_machine_that_was_not_measured_in_time_is_still_described():
    found = {name: value for name, value in MACHINE.items() if name != 'peaks'}
    text = tables.markdown({'date': '2027-01-01', 'machine': found, 'parts': {}})
    assert text.startswith('TPU v9, 1 tpu device(s), jax 1.0, 2027-01-01. 16.0 GiB for programs.')


def test_training_row_of_the_table():
    row = {
        'network': 'a', 'side': 'native', 'dtype': 'bfloat16', 'batch_size': 100, 'image_size': 224,
        'step_s': 0.1, 'macs': 1e10, 'device_bytes': 3 * 2**30,
    }  # fmt: skip
    other = row | {'side': 'torch.compile', 'step_s': 0.2, 'device_bytes': None}
    late = {'network': 'b', 'side': 'native', 'dtype': 'bfloat16', 'reason': 'out of time'}
    text = tables._training([row, late, other], MACHINE)
    # 6e10 operations for an image, 1000 images a second: 60 TFLOP/s of 200
    assert '| `a` | 224 | 100 | 1,000 | 500 | 2.00 | 60 | 30 | 3.00 |' in text
    assert '- `b`, native: out of time' in text


def test_wrong_results_are_listed():
    row = {
        'problem': 'mb1', 'dtype': 'float32', 'direction': 'forward', 'kernel': 'fft', 'reason': '',
        'error': 0.5, 'tolerance': 1e-6, 'right': False, 'precision': 'highest',
    }  # fmt: skip
    text = tables._checks([row, row | {'kernel': 'lax', 'right': True}])
    assert '| `fft` | 0 | 1 | 0 | 0 |' in text and '| `lax` | 1 | 0 | 0 | 0 |' in text
    assert 'float32 (highest precision), `fft`: error 5.0e-01, tolerance 1.0e-06' in text
    np.testing.assert_equal(text.count('\n- '), 1)

"""Tests of tables of measured choices made from reports, and of comparisons with estimates."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from cnn_jax.bench.accelerator import choices
from cnn_jax.bench.kernels import compare
from cnn_jax.bench.kernels.problem import parse
from cnn_jax.ops import tuning
from cnn_jax.ops.tuning import table

CHIP = {'platform': 'tpu', 'device': 'TPU v9'}
PROBLEM = 'mb2_ic3ih8oc4kh3ph1'
UP = 'conv_transpose:mb2_ic4ih6oc2kh4sh2ph1'


def row(problem, kernel, seconds, direction='forward', right=True, **more):
    made = compare.Measurement(
        problem, 'bfloat16', direction, kernel, False,
        error=0.0 if right else 1.0, tolerance=0.5, steady_s=seconds, **more,
    )  # fmt: skip
    return made.as_dict()


def report(path, rows, tuning=CHIP, date='2027-01-01'):
    machine = {'platform': 'gpu', 'device_kind': 'x', 'tuning': tuning, 'peaks': {}}
    parts = {'kernels': {'rows': rows}}
    path.write_text(json.dumps({'version': 1, 'date': date, 'machine': machine, 'parts': parts}))
    return str(path)


def test_the_table_has_the_median_of_right_kernels(tmp_path):
    seconds = {'lax': (3.0, 5.0, 9.0), 'shift': (4.0, 4.0, 4.0), 'fft': (1.0, 1.0, 1.0)}
    paths = [
        report(
            tmp_path / f'{i}.json',
            [
                *(row(PROBLEM, k, s[i], right=(k, i) != ('fft', 2)) for k, s in seconds.items()),
                row(UP, 'subpixel', 2.0, 'forward'),
                row(UP, 'lax', None, 'forward'),
            ],
        )
        for i in range(3)
    ]
    out = tmp_path / 'out.json'
    assert choices.save(str(out), choices.read(paths)) == 2
    made = json.loads(out.read_text())
    assert (made['platform'], made['device'], made['date']) == ('tpu', 'TPU v9', '2027-01-01')
    spec = parse(PROBLEM).spec('bfloat16')
    assert list(made['choices'][table.key(spec)]['forward'].items()) == [('shift', 4), ('lax', 5)]
    # The forward pass of a transposed convolution is the input gradient of the one it transposes.
    assert made['choices'][table.key(parse(UP).spec('bfloat16'))] == {
        'input_grad': {'subpixel': 2.0}
    }


def test_a_table_of_this_machine_is_used(tmp_path, monkeypatch):
    here = {'platform': 'cpu', 'device': table.device('cpu')}
    path = report(tmp_path / 'r.json', [row(PROBLEM, 'scan', 1.0), row(PROBLEM, 'lax', 2.0)], here)
    choices.save(str(tmp_path / 'out.json'), choices.read([path]))
    monkeypatch.setenv(table.VARIABLE, str(tmp_path / 'out.json'))
    table._choices.cache_clear()
    kernel, why = tuning.choose('forward', parse(PROBLEM).spec('bfloat16'), 'cpu')
    table._choices.cache_clear()
    assert kernel == 'scan' and why.startswith('measured: scan 1e+03 ms')


def test_bad_reports_are_named(tmp_path):
    good = report(tmp_path / 'good.json', [row(PROBLEM, 'lax', 1.0)])
    other = report(
        tmp_path / 'other.json', [row(PROBLEM, 'lax', 1.0)], {'platform': 'cpu', 'device': 'mine'}
    )
    empty = report(tmp_path / 'empty.json', [])
    (tmp_path / 'list.json').write_text('[]')
    (tmp_path / 'text.json').write_text('hello')
    for paths, message in (
        ([], 'give the reports'),
        ([good, other], 'other.json: reports must be of one kind of device, got TPU v9 and mine'),
        ([empty], 'empty.json: this report has no times of kernels'),
        ([str(tmp_path / 'list.json')], 'list.json: not a report'),
        ([str(tmp_path / 'text.json')], 'text.json: not a JSON file'),
    ):
        with pytest.raises(ValueError, match=message):
            choices.read(paths)
    out = str(tmp_path / 'out.json')
    choices.save(out, choices.read([other]))
    with pytest.raises(ValueError, match='was measured on cpu: mine, not on tpu: TPU v9'):
        choices.save(out, choices.read([good]))


def test_kendall_is_that_of_scipy():
    rng = np.random.default_rng(0)
    for n in (2, 3, 7):
        a, b = rng.permutation(n).tolist(), rng.permutation(n).tolist()
        assert choices.kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)


def estimates(path, times, chip='v9'):
    records = [
        dict(zip(choices.FIELDS, (PROBLEM, op, kernel, 'bfloat16', chip, value), strict=True))
        for (op, kernel), value in times.items()
    ]
    path.write_text(json.dumps(records))
    return str(path)


def test_agreement_of_estimates(tmp_path):
    measured = {('forward', 'a'): 2.0, ('forward', 'b'): 3.0, ('forward', 'c'): 4.0}
    measured |= {('filter_grad', 'a'): 1.0, ('filter_grad', 'b'): 5.0, ('filter_grad', 'x'): 1.0}
    guess = {('forward', 'a'): 2.0, ('forward', 'b'): 1.0, ('forward', 'c'): 4.0}
    guess |= {('filter_grad', 'a'): 2.0, ('filter_grad', 'b'): 2.5, ('input_grad', 'a'): 1.0}
    guess |= {('filter_grad', 'x'): None}
    rows = [row(PROBLEM, kernel, 1e-6 * t, op) for (op, kernel), t in measured.items()]
    path = report(tmp_path / 'r.json', rows)
    estimated = choices.read_estimates(estimates(tmp_path / 'e.json', guess))
    times = choices.measured(choices.rows(choices.read([path, path])))
    found = choices.agreement(times, estimated)
    assert (found['groups'], found['same_best']) == (2, 1)
    assert found['loss'] == pytest.approx((3 / 2) ** 0.5)  # b instead of a; a, which is right
    assert found['tau'] == pytest.approx((1 / 3 + 1) / 2)
    assert found['ratios']['a'] == pytest.approx((2, (1 * 0.5) ** 0.5, 0.5, 1))
    assert found['ratios']['b'] == pytest.approx((2, (3 * 2) ** 0.5, 2, 3))
    text = choices.agreement_text(found)
    assert 'fastest kernel in 1 of 2 passes' in text and 'agreement (Kendall) 0.67' in text
    assert 'no kernel has both' in choices.agreement_text(choices.agreement(times, {}))


def test_bad_estimates_are_named(tmp_path):
    several = tmp_path / 'several.json'
    one, two = (
        json.loads(open(estimates(tmp_path / 'e.json', {('forward', 'a'): 1.0}, chip)).read())
        for chip in ('v5e', 'v6e')
    )
    several.write_text(json.dumps(list(itertools.chain(one, two))))
    for chip in ('', 'v7'):
        with pytest.raises(
            ValueError, match=f"several.json: chip='{chip}': must be one of v5e, v6e"
        ):
            choices.read_estimates(str(several), chip)
    assert choices.read_estimates(str(several), 'v6e')
    renamed = [{'direction': one.pop('map')} | one for one in two]
    (tmp_path / 'results.json').write_text(json.dumps({'chip': 'v6e', 'records': renamed}))
    assert choices.read_estimates(str(tmp_path / 'results.json')) == choices.read_estimates(
        str(several), 'v6e'
    )
    (tmp_path / 'bad.json').write_text('[{"problem": "x", "map": "forward"}]')
    with pytest.raises(ValueError, match='record 0 lacks kernel, dtype, chip, microseconds'):
        choices.read_estimates(str(tmp_path / 'bad.json'))
    (tmp_path / 'object.json').write_text('{}')
    with pytest.raises(ValueError, match='must be a JSON list'):
        choices.read_estimates(str(tmp_path / 'object.json'))

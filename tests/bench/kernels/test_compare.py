"""Tests of the kernel comparison: it detects wrong kernels and shows reasons."""

import types

import numpy as np
import pytest
from matplotlib.image import imread

from cnn_jax.bench.kernels import compare, pictures, report, suites
from cnn_jax.bench.kernels.problem import parse
from cnn_jax.ops import kernels

PEAKS = {'gemm_gflops': {'float32': 100.0}, 'bandwidth_gbs': 10.0}


@pytest.mark.parametrize('text', ['mb2ic2ih5oc3kh3ph1', 'conv_transpose:mb2ic2iw4oc3kw4sw2pw1'])
@pytest.mark.parametrize('direction', compare.PASSES)
def test_both_first_kernels_are_right_on_every_pass(text, direction):
    rows = compare.measure(parse(text), direction, names=['lax', 'scan'], rounds=1)
    assert [row.kernel for row in rows] == ['lax', 'scan']
    for row in rows:
        assert row.right and 0 < row.error < 1e-6 and row.checked == ''
        assert row.steady_s > 0 and row.gflops == pytest.approx(
            parse(text).flops / row.steady_s / 1e9
        )


def test_int8_is_exact():
    rows = compare.measure(parse('mb2ic130ih5oc3kh3ph1'), 'forward', 'int8', rounds=0)
    assert {'lax', 'scan', 'im2col', 'shift'} <= {row.kernel for row in rows if row.right}
    assert all(row.error == 0 or row.reason for row in rows)


@pytest.mark.parametrize('text', ['max_pool:mb2ic3ih7kh3sh2ph1', 'avg_pool:mb2ic3iw8kw2sw2'])
def test_pools(text):
    for direction in compare.passes(parse(text)):
        rows = compare.measure(parse(text), direction, rounds=0)
        assert rows and all(row.right or row.reason for row in rows)


def test_a_wrong_kernel_is_found(monkeypatch):
    wrong = types.SimpleNamespace(
        supports=lambda spec, op, platform: None,
        forward=lambda x, w, spec: 1.001 * kernels.KERNELS['lax'].forward(x, w, spec),
    )
    broken = types.SimpleNamespace(
        supports=lambda spec, op, platform: None, forward=lambda x, w, spec: 1 / 0
    )
    refusing = types.SimpleNamespace(supports=lambda spec, op, platform: 'not today')
    for name, module in (('wrong', wrong), ('broken', broken), ('refusing', refusing)):
        monkeypatch.setitem(kernels.KERNELS._values, name, module)
    monkeypatch.setattr(
        compare.dispatch, 'implementations', lambda op: ('lax', 'wrong', 'broken', 'refusing')
    )
    rows = compare.measure(parse('mb1ic1iw5oc1kw3'), 'forward', rounds=1)
    lax, wrong, broken, refusing = rows
    assert lax.right and wrong.right is False and wrong.error == pytest.approx(1e-3, rel=0.01)
    assert broken.reason.startswith('failed: ZeroDivisionError') and broken.right is None
    assert refusing.reason == 'not today'
    assert compare.best(rows) is lax
    text = report.table(rows, PEAKS)
    assert 'WRONG: error above' in text and 'not today' in text and 'ZeroDivisionError' in text


def test_unknown_pass_and_kernel():
    with pytest.raises(ValueError, match='pass must be one of forward, input_grad, got'):
        compare.measure(parse('max_pool:ic1iw4kw2'), 'filter_grad')
    some = [parse('ic1iw4oc1kw2'), parse('max_pool:ic1iw4kw2')]
    compare.check_kernels(some, ['lax', 'reduce_window', 'default'])
    with pytest.raises(ValueError, match="unknown kernel 'nope'; must be one of default, lax"):
        compare.check_kernels(some, ['lax', 'nope'])


def row(kernel, ms, direction='forward', problem='mb1_ic1iw5oc1kw3', **more):
    values = {
        'problem': problem,
        'dtype': 'float32',
        'direction': direction,
        'kernel': kernel,
        'chosen': kernel == 'scan',
        'error': 1e-7,
        'tolerance': 1e-6,
        'compile_s': 0.1,
        'first_s': 0.1,
        'steady_s': ms / 1e3,
        'iqr_s': 0.0,
        'gflops': 6 / ms,
        'bytes': 1000,
        'intensity': 5.0,
    }
    return compare.Measurement(**values | more)


def rows():
    return [
        row('lax', 4.0),
        row('scan', 2.0),
        row('im2col', 1.0),
        row('fft', 0.1, error=1.0),  # fast but wrong, so never the best
        row('lax', 3.0, 'filter_grad'),
        row('scan', 6.0, 'filter_grad'),
        row('lax', 1.0, problem='max_pool:mb1_ic1iw4kw2'),
    ]


def test_totals_compare_like_with_like():
    sums = report.totals(rows())
    assert sums['passes'] == 2 and sums['left_out'] == 1  # the pool has no default
    assert sums['lax_s'] == pytest.approx(7e-3)
    assert sums['default_s'] == pytest.approx(8e-3)
    assert sums['best_s'] == pytest.approx(4e-3)
    counts = {('mb1_ic1iw5oc1kw3', 'float32', 'forward'): 3}
    assert report.totals(rows(), counts)['best_s'] == pytest.approx(3e-3)
    assert 'best of each 4.0 ms (1.75x)' in report.totals_line(sums)


def test_ratios_add_the_passes_of_a_problem_up():
    problem = 'mb1_ic1iw5oc1kw3'
    torch = {(problem, 'float32', 'forward'): 1e-3}  # no gradient: left out
    found = report.ratios(rows(), torch)
    assert found == {('float32', 'lax'): {problem: pytest.approx(7 / 8)}}
    assert 'default 0.88x as fast as lax' in report.ratios_lines(found)


def test_tables_are_sorted_and_name_the_best():
    text = report.table(rows(), PEAKS)
    first = text.split('filter gradient')[0]
    assert first.index('im2col') < first.index('scan*') < first.index('lax') < first.index('fft')
    key = ('mb1_ic1iw5oc1kw3', 'float32', 'forward')
    best = report.best_table(rows(), torch={key: 2e-3})
    assert best.splitlines()[1].split()[-5:] == ['im2col', '6', '4.00x', '2.00x', '2.00x']


def test_pictures_show_the_rates(tmp_path):
    figure = pictures.bars(rows(), tmp_path / 'b.png', dtype='float32')
    assert imread(tmp_path / 'b.png').std() > 0.01
    forward = figure.axes[0]
    assert forward.patches[0].get_width() == pytest.approx(6.0)  # the best correct kernel
    dots = {float(line.get_xdata()[0]) for line in forward.lines}
    assert dots == {1.5, 3.0}
    roof = pictures.roofline(rows(), PEAKS, tmp_path / 'r.png', dtype='float32').axes[0]
    np.testing.assert_allclose(max(roof.lines[0].get_ydata()), 100.0)
    with pytest.raises(ValueError, match='none of the 7 measurements in bfloat16'):
        pictures.bars(rows(), dtype='bfloat16')


@pytest.mark.parametrize('name', suites.SUITES)
def test_suites_hold_problems_in_canonical_form(name):
    for text in suites.SUITES[name]:
        assert str(parse(text)) == text
    assert len(set(suites.SUITES[name])) == len(suites.SUITES[name])


def test_held_out_shapes_are_held_out():
    assert len(suites.HELD_OUT) >= 12 and not set(suites.HELD_OUT) & set(suites.TUNED)

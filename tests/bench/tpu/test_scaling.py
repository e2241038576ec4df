"""Tests of the weak scaling model against values computed by hand."""

import dataclasses

import pytest

from cnn_jax.bench.tpu import aot, scaling


def _report(chips, flops=197e9, size=100_000_000, count=1, batch=64):
    kinds = {'all-reduce': aot.Collective(count, size)} if chips > 1 else {}
    return aot.Report(chips, batch * chips, 0, 0, flops, 0.0, kinds, 0.0)


def test_one_chip_is_arithmetic_alone():
    row = scaling.scale(_report(1), aot.SLICES['v5e-1'], scaling.Assumptions(efficiency=0.5))
    assert row.step == pytest.approx(2e-3)  # 197 G operations at half of 197 T per second
    assert row.efficiency == 1 and row.examples_per_second == pytest.approx(32_000)
    assert row.host_examples_per_second == row.examples_per_second


@pytest.mark.parametrize(
    'name, bandwidth, hops',
    [
        ('v5e-4', 2 * 50e9, 4),  # one link per axis; one hop out and one back on each
        ('v5e-16', 2 * 50e9, 12),  # lines of four
        ('v5e-256', 4 * 50e9, 32),  # rings of sixteen, in both directions
        ('v6e-256', 4 * 100e9, 32),
    ],
)
def test_all_reduce_by_bandwidth_and_latency(name, bandwidth, hops):
    slice_ = aot.SLICES[name]
    n = slice_.chips
    row = scaling.scale(_report(n, count=3), slice_, scaling.Assumptions(hop_seconds=2e-6))
    assert row.transfer == pytest.approx(2 * (n - 1) / n * 100e6 / bandwidth)
    assert row.latency == pytest.approx(3 * hops * 2e-6)


def test_collectives_of_neighbours_take_a_line_or_one_hop():
    slice_ = aot.SLICES['v5e-256']
    kinds = {
        'all-reduce of 4 chips': aot.Collective(10, 8_000_000, 4),
        'collective-permute': aot.Collective(7, 2_000_000),
    }
    report = dataclasses.replace(_report(256), collectives=kinds)
    row = scaling.scale(report, slice_, scaling.Assumptions(hop_seconds=2e-6))
    assert row.transfer == pytest.approx((2 * 3 / 4 * 8e6 + 2e6) / 50e9)
    assert row.latency == pytest.approx((10 * 6 + 7) * 2e-6)


def test_input_is_shared_by_the_chips_of_a_host():
    row = scaling.scale(_report(256), aot.SLICES['v5e-256'])
    assert row.host_examples_per_second == pytest.approx(row.examples_per_second * 8 / 256)
    assert row.host_network_share == pytest.approx(row.host_examples_per_second * 108e3 / 25e9)


def test_first_limit_names_what_is_dearest():
    slice_ = aot.SLICES['v5e-256']
    heavy = {'flops': 197e12}
    assert scaling.scale(_report(256, **heavy, size=10**10), slice_).first_limit() == (
        'collective bandwidth'
    )
    assert scaling.scale(_report(256, **heavy, count=5000), slice_).first_limit() == (
        'collective latency'
    )
    assert scaling.scale(_report(256, flops=1e9, size=8), slice_).first_limit() == 'host network'


def test_wrong_calls_are_named():
    with pytest.raises(ValueError, match='report for 4 chips, but v5e-16 has 16'):
        scaling.scale(_report(4), aot.SLICES['v5e-16'])
    with pytest.raises(ValueError, match='efficiency=0'):
        scaling.Assumptions(efficiency=0)


def test_table_has_a_line_for_each_row():
    rows = [scaling.scale(_report(n), aot.SLICES[f'v5e-{n}']) for n in (1, 4)]
    text = scaling.table(rows)
    assert len(text.splitlines()) == 4 and '| v5e-4 | 256 |' in text

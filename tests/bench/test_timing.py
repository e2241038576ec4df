"""Tests that timing and machine limits report what ran; they do not test speed."""

import time

import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import machine as machine_of_package
from cnn_jax.bench import machine, timing


def test_candidates_are_run_in_turns_and_counted():
    calls = []

    def candidate(name, cost):
        return timing.Compiled(lambda: calls.append(name), 0.5, cost, None)

    found = timing.steady(
        {'slow': candidate('slow', 1e9), 'fast': candidate('fast', 0.0)},
        rounds=3,
        sample=0.0,
        limit=1.0,
    )
    assert len(found['slow'].steady) == 1  # exceeds the limit after its first call
    assert len(found['fast'].steady) == 3
    assert calls == ['fast', 'slow', 'fast', 'fast', 'fast']
    assert found['fast'].compile == 0.5


def test_a_candidate_far_behind_the_fastest_is_given_up():
    calls = []

    def candidate(name, seconds):
        def call():
            calls.append(name)
            time.sleep(seconds)

        return timing.Compiled(call, 0.0, seconds, None)

    found = timing.steady(
        {'slow': candidate('slow', 0.1), 'fast': candidate('fast', 0.002)},
        rounds=3, sample=0.0, give_up=3.0,
    )  # fmt: skip
    assert calls.count('slow') == 1 and calls.count('fast') == 4
    assert found['slow'].median >= 0.1 and len(found['fast'].steady) == 3


def test_caches_are_emptied_before_each_call_and_not_timed(monkeypatch):
    events = []

    def evict(size):
        assert size >= 2 * machine_of_package.last_level_cache() > 0
        return lambda: (events.append('evict'), time.sleep(0.02))

    monkeypatch.setattr(timing, '_evict', evict)
    call = timing.Compiled(lambda: events.append('call'), 0.0, 0.0, None)
    found = timing.steady({'a': call}, rounds=3, sample=0.0, cold_cache=True)
    assert events == ['evict', 'call'] * 4
    assert 0 < found['a'].median < 0.02


def test_eviction_writes_the_whole_buffer():
    run = timing._evict(1 << 20)
    run()
    run()
    (state,) = (cell.cell_contents for cell in run.__closure__ if type(cell.cell_contents) is list)
    np.testing.assert_array_equal(state[0], np.full(1 << 18, 3.0))


def test_median_and_spread():
    timed = timing.Timing(1.0, 2.0, (3.0, 1.0, 2.0, 4.0, 100.0))
    assert timed.median == 3.0 and timed.iqr == 2.0


def test_compile_gives_the_result():
    made = timing.compile(lambda a, b: a @ b, jnp.eye(3), jnp.ones((3, 2)))
    np.testing.assert_array_equal(made.result, np.ones((3, 2)))
    assert made.compile > 0 and made.first > 0


def test_no_rounds_is_an_error():
    with pytest.raises(ValueError, match='rounds must be at least 1, got 0'):
        timing.steady({}, rounds=0)


def test_description_names_device_and_versions():
    found = machine.describe()
    assert found['devices'] >= 1 and found['cores'] >= 1
    assert found['versions']['jax'] and machine.versions(['no-such-package']) == {
        'no-such-package': None
    }
    assert f'jax {found["versions"]["jax"]}' in machine.one_line(found)


def test_roofline_is_the_lower_of_two_limits():
    peaks = {'gemm_gflops': {'float32': 100.0}, 'bandwidth_gbs': 10.0}
    assert machine.attainable(peaks, 'float32', 2.0) == 20.0
    assert machine.attainable(peaks, 'float32', 50.0) == 100.0


def test_limits_are_finite_and_positive():
    assert 0 < machine.bandwidth(1, rounds=2) < 1e6
    assert 0 < machine.gemm_peak('float32', rounds=1, largest=256) < 1e7

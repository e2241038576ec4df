import hashlib

import numpy as np
import pytest

from cnn_jax.data import batch_rows, epoch_order, process_rows, steps_per_epoch


def test_epoch_order_is_a_permutation_that_seed_and_epoch_decide():
    orders = {(s, e): epoch_order(s, e, 1000) for s in (0, 1) for e in (0, 1, 2)}
    for order in orders.values():
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert len({order.tobytes() for order in orders.values()}) == len(orders)
    epoch_order.cache_clear()
    np.testing.assert_array_equal(epoch_order(1, 2, 1000), orders[1, 2])


def test_epoch_order_is_the_same_on_every_platform_and_numpy():
    # Recorded values: if they changed, old runs could not be resumed correctly.
    assert epoch_order(0, 0, 8).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    digest = hashlib.sha256(epoch_order(7, 3, 60_000).astype('<i8').tobytes()).hexdigest()
    assert digest.startswith('9c641a3e32e12c44')


def test_every_position_is_equally_likely():
    first = np.array([epoch_order(0, epoch, 10)[0] for epoch in range(5000)])
    counts = np.bincount(first, minlength=10)
    # Chi-squared with 9 degrees of freedom: 27.9 is exceeded with probability 0.001.
    assert ((counts - 500) ** 2 / 500).sum() < 27.9


def test_batches_of_an_epoch_are_disjoint_and_the_rest_is_dropped():
    n, size = 103, 10
    assert steps_per_epoch(n, size) == 10
    rows = [batch_rows(step, seed=5, n=n, batch_size=size) for step in range(20)]
    for epoch in (rows[:10], rows[10:]):
        assert len(np.unique(np.concatenate(epoch))) == 100
    np.testing.assert_array_equal(np.concatenate(rows[10:]), epoch_order(5, 1, n)[:100])


@pytest.mark.parametrize('count', [1, 2, 3, 6])
def test_processes_together_see_the_batch_of_one(count):
    rows = batch_rows(4, seed=0, n=50, batch_size=12)
    shares = [process_rows(rows, index, count) for index in range(count)]
    assert {len(share) for share in shares} == {12 // count}
    np.testing.assert_array_equal(np.concatenate(shares), rows)


@pytest.mark.parametrize(
    'call, named',
    [
        (lambda: epoch_order(-1, 0, 5), 'seed=-1'),
        (lambda: steps_per_epoch(10, 0), 'batch_size=0'),
        (lambda: steps_per_epoch(10, 11), 'batch_size=11 .* examples, 10'),
        (lambda: process_rows(np.arange(10), 0, 3), 'batch size 10 must be a multiple'),
        (lambda: process_rows(np.arange(10), 2, 2), 'process index 2;'),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()

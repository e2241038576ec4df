"""The prefetcher gives every step its own examples, whatever was requested before."""

import jax
import numpy as np
import pytest

from cnn_jax.data import batch_rows
from cnn_jax.training.devices import Devices
from cnn_jax.training.parallel import WAYS
from cnn_jax.training.prefetch import Prefetcher
from tests.training.tiny import tiny_dataset


@pytest.mark.parametrize('resident', [True, False])
@pytest.mark.parametrize('parallel', ['jit', 'pmap'])
def test_every_step_gets_its_rows(resident, parallel):
    split, devices = tiny_dataset().splits['train'], Devices.all(jax.devices()[:2])
    way = WAYS[parallel](devices)
    feed = Prefetcher(split, 8, seed=5, steps_per_call=3, parallel=way, resident=resident)
    for step, count in [(0, 3), (3, 3), (6, 1), (250, 3), (254, 2), (256, 3), (4, 2)]:
        assert count <= feed.room(step)
        data, rows, number = feed.get(step, count)
        assert int(number) == count
        for i in range(count):
            wanted = split.labels[batch_rows(step + i, seed=5, n=len(split), batch_size=8)]
            if parallel == 'pmap':
                flat = lambda a, at: np.asarray(a)[:, at].reshape(-1)  # noqa: E731
            else:
                flat = lambda a, at: np.asarray(a)[at]  # noqa: E731
            if resident:
                found = np.asarray(data['labels'])[flat(rows, (step + i) % 256)]
            else:
                found = flat(data['labels'], i)
            assert np.array_equal(found, wanted)
    feed.close()

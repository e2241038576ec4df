"""Checkpoints that are written later leave the same files as checkpoints written at once."""

import math

import jax
import numpy as np
import pytest

from cnn_jax.training import Checkpoints, delayed
from cnn_jax.training.delayed import DelayedCheckpoints
from cnn_jax.training.devices import Devices

SCORES = (0.5, None, math.nan, 0.7, 0.7, 0.1, None, 0.7, 0.6, 0.2)


def kept(folder, policy):
    """Returns the steps in a folder, the best one, and the content of each."""
    with Checkpoints(folder, read_only=True, **policy) as found:
        steps = found.steps()
        like = {'a': jax.ShapeDtypeStruct((2,), np.float32)}
        content = [found.restore(step, like) for step in steps]
        return steps, found.find('best'), [(state['a'].tolist(), meta) for state, meta in content]


@pytest.mark.parametrize('keep_last, keep_best', [(2, 1), (1, 2), (1, 0)])
@pytest.mark.parametrize('writes', [(), (5,), (2, 3, 8)])
def test_the_same_checkpoints_are_kept(tmp_path, keep_last, keep_best, writes):
    policy = {'keep_last': keep_last, 'keep_best': keep_best}
    one = Devices.all(jax.devices()[:1])
    with (
        Checkpoints(tmp_path / 'at once', **policy) as at_once,
        Checkpoints(tmp_path / 'later', **policy) as checkpoints,
    ):
        later = DelayedCheckpoints(checkpoints, one, **policy)
        for step, score in enumerate(SCORES, 1):
            state = {'a': np.full(2, step, np.float32)}
            at_once.save(step, one.put(state), score=score)
            later.add(step, state, score=score)
            later.write(now=step in writes)
        assert checkpoints.steps()[-1:] == list(writes[-1:])
        later.write()
    assert kept(tmp_path / 'later', policy) == kept(tmp_path / 'at once', policy)


def test_written_when_the_time_has_passed(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints:
        later = DelayedCheckpoints(checkpoints, Devices.all(), keep_last=1, keep_best=0)
        later.add(1, {'a': np.zeros(2, np.float32)})
        later.write(now=False)
        assert not checkpoints.steps()
        monkeypatch.setattr(delayed, 'SECONDS', 0.0)
        later.write(now=False)
        assert checkpoints.steps() == [1]

import numpy as np
import pytest

from cnn_jax.data import Loader, Split, evaluation_batches


def split(n):
    return Split(np.arange(n, dtype=np.float32)[:, None], np.arange(n, dtype=np.int32))


def test_a_batch_depends_on_its_step_alone():
    one = Loader(split(50), 8, seed=3)
    forward = [one.batch(step) for step in range(15)]
    other = Loader(split(50), 8, seed=3)
    for step in (14, 3, 7):
        np.testing.assert_array_equal(other.batch(step)['labels'], forward[step]['labels'])
    for batch, step in zip(other, range(3), strict=False):
        np.testing.assert_array_equal(batch['inputs'], forward[step]['inputs'])
        np.testing.assert_array_equal(batch['inputs'][:, 0], batch['labels'])
    assert one.steps_per_epoch == 6


def test_processes_share_each_batch():
    whole = Loader(split(50), 8, seed=1)
    parts = [Loader(split(50), 8, seed=1, process_index=i, process_count=4) for i in range(4)]
    for step in (0, 5, 11):
        together = np.concatenate([part.batch(step)['labels'] for part in parts])
        np.testing.assert_array_equal(together, whole.batch(step)['labels'])


@pytest.mark.parametrize('n, size, processes', [(10, 4, 1), (10, 4, 2), (8, 4, 2), (3, 4, 4)])
def test_evaluation_weighs_every_example_once(n, size, processes):
    seen = np.zeros(n)
    for index in range(processes):
        for batch in evaluation_batches(
            split(n), size, process_index=index, process_count=processes
        ):
            assert len(batch['labels']) == size // processes
            np.testing.assert_array_equal(batch['inputs'][:, 0], batch['labels'])
            np.add.at(seen, batch['labels'], batch['weights'])
    np.testing.assert_array_equal(seen, 1)


@pytest.mark.parametrize(
    'call, named',
    [
        (lambda: Loader(split(5), 6), 'batch_size=6'),
        (lambda: Loader(split(5), 0), 'batch_size=0'),
        (lambda: Loader(split(5), 4, process_count=3), 'batch size 4 must be a multiple'),
        (lambda: next(evaluation_batches(split(5), 0)), 'batch_size=0'),
    ],
)
def test_bad_arguments_are_named_before_the_first_batch(call, named):
    with pytest.raises(ValueError, match=named):
        call()

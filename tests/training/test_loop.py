"""The whole training loop in this process: data, steps, evaluations, checkpoints, profile."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.training import TrainConfig, Workdir, make_job, read_metrics, train

STEPS = 6
CONFIG = TrainConfig(
    model_options='features=(4,),hidden=()',
    dtype='bfloat16',
    steps=STEPS,
    ema=0.9,
    augment='crop:1',
    log_every=1,
    eval_every='3steps',
    checkpoint_every='2steps',
    profile_steps='2,3',
)


def run(folder):
    """Trains and returns the state, the result and the folder."""
    job = make_job(CONFIG)
    workdir = Workdir(folder, CONFIG)
    with workdir.hold():
        return *train(job, workdir), folder


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A run that allows only explicit transfers between host and devices."""
    # The option applies to all threads, including those of the feed and of Orbax.
    # The context manager would apply to this thread only.
    before = jax.config.jax_transfer_guard
    jax.config.update('jax_transfer_guard', 'disallow')
    try:
        return run(tmp_path_factory.mktemp('loop') / 'run')
    finally:
        jax.config.update('jax_transfer_guard', before)


def test_no_hidden_transfers_in_the_whole_loop(finished):
    state, result, _ = finished
    assert int(state.step) == result['step'] == STEPS
    with jax.transfer_guard('disallow'), pytest.raises(Exception, match='[Dd]isallowed'):
        jnp.add(state.step, np.ones(3))  # the guard detects implicit transfers


def test_bfloat16_layers_leave_all_else_float32(finished):
    state, result, _ = finished
    assert {str(a.dtype) for a in jax.tree.leaves(state)} == {'float32', 'int32'}
    shapes = {'inputs': ((64, 8, 8, 1), jnp.uint8), 'labels': ((64,), jnp.int32)}
    batch = {name: jax.ShapeDtypeStruct(*each) for name, each in shapes.items()}
    program = str(jax.make_jaxpr(make_job(CONFIG).step())(state, batch))
    assert re.search(r'bf16\[64,8,8,4\] = conv_general_dilated', program)
    # The loss and the optimiser use no bfloat16. The only sum in bfloat16 is that over the batch
    # for the gradient of the bias in Flax's dense layer.
    assert not re.search(r'bf16\S* = (log|exp|sqrt|div|integer_pow)', program)
    assert re.findall(r'(bf16\S*) = reduce_sum', program) == ['bf16[10]']
    assert all(np.isfinite(result[key]['loss']) for key in ('test', 'ema_test'))


@pytest.mark.slow
def test_same_seed_same_bits_through_the_whole_loop(finished, tmp_path):
    jax.tree.map(np.testing.assert_array_equal, finished[:2], run(tmp_path / 'again')[:2])


def test_the_profile_holds_the_steps_asked_for(finished):
    (file,) = (finished[2] / 'profile').rglob('*.xplane.pb')
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    steps = [dict(event.stats)['step_num'] for event in events if event.name == 'train']
    assert steps == [2, 3]


def test_what_is_watched(finished):
    rows = read_metrics(finished[2])
    assert [row['step'] for row in rows] == [1, 2, 3, 3, 4, 5, 6, 6]
    evaluated = [row for row in rows if 'test_accuracy' in row]
    assert len(evaluated) == 2
    for row in evaluated:
        assert 1e8 < row['memory_peak_bytes'] < 1e12
        assert row['examples_per_second'] > 0 and 0 <= row['input_wait_share'] <= 1
        assert row['test_ema_loss'] > 0

"""Runs that train together in one program equal the same runs in programs of their own."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from cnn_jax import training
from cnn_jax.errors import UserError
from cnn_jax.training import TrainConfig, Workdir, members, members_loop, read_metrics

BASE = TrainConfig(
    model_options='features=(4,),hidden=()',
    epochs=2.0,
    batch_size=256,
    log_every=1,
)
DROPOUT = dataclasses.replace(
    BASE, model='small_cnn', model_options='stages=((4,),),dropout=0.3', augment='crop:1', ema=0.9
)
VARIED = (
    {'seed': 0},
    {'seed': 2**32 + 5, 'learning_rate': 1e-2},
    {'seed': 1, 'learning_rate': 3e-3, 'weight_decay': 0.1},
)


def together(folder, configs):
    """Trains the runs in one program; returns their states and results."""
    workdirs = [Workdir(folder / str(config.seed), config) for config in configs]
    for workdir in workdirs:
        workdir.hold().close()
    return members_loop.train_members(members.make_members(configs), workdirs)


def alone(folder, config):
    """Trains one run in a program of its own."""
    workdir = Workdir(folder, config)
    with workdir.hold():
        return training.train(training.make_job(config), workdir)


def losses(folder):
    return [row['train_loss'] for row in read_metrics(folder) if 'train_loss' in row]


@pytest.mark.parametrize(
    'base',
    [
        pytest.param(BASE, id='lecture_cnn', marks=pytest.mark.slow),
        pytest.param(DROPOUT, id='dropout_and_batch_norm'),
    ],
)
def test_members_equal_their_own_runs(tmp_path, base):
    configs = [dataclasses.replace(base, **changes) for changes in VARIED]
    found = together(tmp_path, configs)
    for i, config in enumerate(configs):
        state, result = alone(tmp_path / f'alone{i}', config)
        mine, hers = losses(tmp_path / str(config.seed)), losses(tmp_path / f'alone{i}')
        assert len(mine) == 10
        np.testing.assert_allclose(mine, hers, rtol=2e-4)
        got_state, got = found[i]
        assert got.keys() == result.keys() and got['step'] == result['step']
        np.testing.assert_allclose(got['test']['loss'], result['test']['loss'], rtol=1e-3)
        assert abs(got['test']['accuracy'] - result['test']['accuracy']) <= 1 / 355 + 1e-9
        for a, b in zip(jax.tree.leaves(got_state), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-3)


def test_stopped_members_resume_and_a_diverged_one_is_given_up(tmp_path, monkeypatch):
    base = dataclasses.replace(BASE, steps=6, eval_every='2steps', checkpoint_every='6steps')
    configs = [dataclasses.replace(base, seed=seed) for seed in (0, 1)]
    configs.append(dataclasses.replace(base, seed=2, learning_rate=1e38))
    undisturbed = together(tmp_path / 'undisturbed', configs)
    assert isinstance(undisturbed[2], training.NotFiniteError)
    assert 'step ' in str(undisturbed[2]) and not math.isnan(undisturbed[0][1]['test']['loss'])

    stop = lambda _, step: 'SIGTERM' if step == 4 else None  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(members_loop.Interrupt, 'at', stop)
        with pytest.raises(training.Interrupted, match='after step 4 of 6, saved'):
            together(tmp_path / 'stopped', configs[:2])
    resumed = together(tmp_path / 'stopped', configs[:2])
    for (state, result), (other, expected) in zip(resumed, undisturbed[:2], strict=True):
        assert result.keys() == expected.keys() and int(state.step) == 6
        # Two members are another program than three, so sums may run in another order.
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert [row['step'] for row in read_metrics(tmp_path / 'stopped' / '0')] == [
        row['step'] for row in read_metrics(tmp_path / 'undisturbed' / '0')
    ]


def test_a_run_begun_alone_continues_beside_a_new_one(tmp_path):
    configs = [dataclasses.replace(BASE, steps=4, seed=seed) for seed in (0, 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('cnn_jax.training.loop.Interrupt.at', lambda _, s: 'stop' * (s == 2) or None)
        with pytest.raises(training.Interrupted):
            alone(tmp_path / '0', configs[0])
    results = [result for _, result in together(tmp_path, configs)]
    assert [result['step'] for result in results] == [4, 4]
    for seed in (0, 1):
        assert len(losses(tmp_path / str(seed))) == 4


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'model': 'small_cnn'}, "model='small_cnn': runs that train together must have the same"),
        ({'batch_size': 32}, 'batch_size=32: runs that train together'),
        ({}, 'seed=0: two runs that train together are equal'),
    ],
)
def test_runs_that_cannot_train_together_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        members.make_members([BASE, dataclasses.replace(BASE, **changes)])


def test_pmap_and_no_runs_are_refused():
    with pytest.raises(UserError, match="parallel='pmap'"):
        members.make_members([dataclasses.replace(BASE, parallel='pmap')])
    with pytest.raises(UserError, match='at least one'):
        members.make_members([])


@pytest.mark.parametrize('optimizer', ['sgd', 'adam', 'adamw', 'muon', 'adadelta', 'lars'])
@pytest.mark.parametrize('schedule', ['constant', 'step', 'cosine', 'linear', 'one_cycle'])
def test_every_optimizer_and_schedule_takes_rates_as_arrays(optimizer, schedule):
    changes = {'optimizer': optimizer, 'schedule': schedule, 'steps': 20}
    configs = [
        dataclasses.replace(BASE, **changes, learning_rate=rate, weight_decay=decay)
        for rate, decay in ((1e-2, 0.0), (0.3, 0.1))
    ]
    jobs = members.make_members(configs).jobs
    chance = np.random.default_rng(0)
    draw = lambda shape: chance.normal(size=shape).astype(np.float32)  # noqa: E731
    shapes = {'a/kernel': (4, 3), 'a/bias': (3,)}
    params, grads = ({n: draw(s) for n, s in shapes.items()} for _ in range(2))

    def updates(optimizer):
        state = optimizer.init(params)
        _, state = optimizer.update(grads, state, params)
        return optimizer.update(grads, state, params)[0]

    together = jax.jit(jax.vmap(lambda member: updates(members._traced(jobs, member).optimizer)))(
        members._scalars(jobs)
    )
    for i, job in enumerate(jobs):
        own = jax.jit(lambda job=job: updates(job.optimizer))()
        for name, value in own.items():
            np.testing.assert_allclose(together[name][i], value, rtol=1e-5, atol=1e-8)


def test_spread_is_over_the_seeds_of_each_choice():
    configs = [
        dataclasses.replace(BASE, seed=seed, learning_rate=rate)
        for rate in (0.1, 0.2)
        for seed in (0, 1, 2)
    ]
    values = (0.90, 0.92, 0.94, 0.5, 0.5, 0.5)
    results = [{'metric': 'accuracy', 'test': {'accuracy': value}} for value in values]
    assert members.spread(configs, results) == [
        'learning_rate=0.1: test accuracy 0.9200 +- 0.0200 (3 seeds)',
        'learning_rate=0.2: test accuracy 0.5000 +- 0.0000 (3 seeds)',
    ]
    assert members.spread(configs[::3], results[::3]) == []

"""Tests configuration, durations, rates, optimisers and metrics against their definitions."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.training import TrainConfig, durations, metrics, processes, workdir
from cnn_jax.training.optimizer import learning_rate, make_optimizer


def test_config_survives_json_and_names_what_differs():
    config = TrainConfig(model='vgg11', epochs=3.0, model_options='hidden=(64,),norm=batch')
    assert TrainConfig.from_json(config.to_json()) == config
    assert config.read_model_options() == {'hidden': (64,), 'norm': 'batch'}
    other = dataclasses.replace(config, epochs=4.0, log_every=3)
    assert config.differences(other) == {'epochs': (3.0, 4.0)}  # log_every affects no result
    with pytest.raises(ValueError, match='unknown fields: colour'):
        TrainConfig.from_json('{"schema": 1, "colour": 2}')


def test_runs_of_earlier_versions_are_found_again(monkeypatch):
    """Default folder names stay the same, and `~` in a configuration is the home folder."""
    assert workdir.default_name(TrainConfig()) == 'digits-lecture_cnn-b9af0b'
    plain, warm = TrainConfig(ema=0.9), TrainConfig(ema=0.9, ema_warmup=True)
    assert workdir.default_name(plain) == 'digits-lecture_cnn-0648ca' != workdir.default_name(warm)
    assert plain.differences(warm) == {'ema_warmup': (False, True)}
    assert warm.differences(plain) == {'ema_warmup': (True, False)}
    monkeypatch.setenv('HOME', '/home/me')
    there, here = (TrainConfig(init_from=path) for path in ('~/run', '/home/me/run'))
    assert not there.differences(here)


@pytest.mark.parametrize(
    'values, said',
    [
        ({'batch_size': 0}, 'batch_size=0: must be at least 1'),
        ({'batch_size': 2.5}, 'batch_size=2.5: must be of type int'),
        ({'learning_rate': math.nan}, 'learning_rate=nan: must be finite'),
        ({'optimizer': 'rms'}, "optimizer='rms': must be one of sgd"),
        ({'epochs': 0.0}, 'epochs=0.0: must be above 0'),
        ({'steps': 1, 'examples': 1.0}, 'give one of them'),
        ({'batch_size': 10, 'accumulate': 4}, 'accumulate=4: must divide'),
        ({'warmup': '5'}, "warmup='5': .*write 10epochs"),
        ({'model_options': '64'}, 'must have the form name=value'),
        ({'milestones': '0.5,0.2'}, 'increasing fractions between 0 and 1'),
    ],
    ids=str,
)
def test_values_out_of_range_are_said(values, said):
    with pytest.raises(ValueError, match=said):
        TrainConfig(**values)


def test_durations():
    steps = {
        text: durations.to_steps(text, batch_size=20, steps_per_epoch=30)
        for text in ('7steps', '1step', '2epochs', '0.5 epoch', '1e3examples')
    }
    assert list(steps.values()) == [7, 1, 60, 15, 50]
    assert TrainConfig(epochs=1.5).total_steps(30) == 45
    assert TrainConfig(steps=7).total_steps(30) == 7
    assert TrainConfig(examples=640.0, batch_size=64).total_steps(30) == 10


@pytest.mark.parametrize(
    'schedule, wanted',
    [
        ('constant', [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ('step', [0.5, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ('linear', [0.5, 1] + [1 - i / 8 for i in range(8)]),
        ('cosine', [0.5, 1] + [(1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)]),
    ],
)
def test_learning_rates(schedule, wanted):
    config = TrainConfig(schedule=schedule, learning_rate=1.0)
    rate = learning_rate(config, 10, 2)
    np.testing.assert_allclose([rate(i) for i in range(10)], wanted, rtol=1e-6, atol=1e-7)


def test_one_cycle_rises_and_falls():
    rate = learning_rate(TrainConfig(schedule='one_cycle', learning_rate=1.0), 100, 0)
    values = [float(rate(i)) for i in range(100)]
    assert np.argmax(values) == 30 and max(values) == pytest.approx(1.0)
    assert np.all(np.diff(values[:31]) > 0) and np.all(np.diff(values[30:]) < 0)
    with pytest.raises(ValueError, match='has its own'):
        learning_rate(TrainConfig(schedule='one_cycle'), 100, 5)


@pytest.mark.parametrize('shape', [(5, 2, 4), (3, 3, 2, 4), (2, 2, 2, 2, 4)])
def test_muon_takes_kernels_of_any_rank_as_matrices(shape):
    gradient = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def update(gradient):
        optimizer = make_optimizer(TrainConfig(optimizer='muon', weight_decay=0.0), lambda _: 0.1)
        params = {'a/kernel': jnp.zeros_like(gradient)}
        return optimizer.update({'a/kernel': gradient}, optimizer.init(params), params)[0][
            'a/kernel'
        ]

    matrix = update(gradient.reshape(-1, 4))
    np.testing.assert_allclose(update(gradient).reshape(-1, 4), matrix, rtol=1e-5, atol=1e-6)
    # Five steps of Muon's iteration bring the singular values near 1 (Jordan 2024).
    assert 0.5 < (np.linalg.svd(matrix)[1] / 0.1).min() and np.linalg.norm(matrix, 2) < 0.13


PARAMS = {'a/kernel': jnp.ones((3, 3, 2, 4)), 'a/bias': jnp.ones(4), 'bn/scale': jnp.ones(4)}


@pytest.mark.parametrize('name', ['sgd', 'adam', 'adamw', 'muon', 'adadelta', 'lars'])
def test_decay_shrinks_kernels_only_and_steps_go_downhill(name):
    config = TrainConfig(optimizer=name, weight_decay=0.1, learning_rate=0.01)
    optimizer = make_optimizer(config, lambda _: 0.01)

    def updates(value):
        grads = jax.tree.map(lambda p: jnp.full_like(p, value), PARAMS)
        return jax.jit(optimizer.update)(grads, optimizer.init(PARAMS), PARAMS)[0]

    still, moved = updates(0.0), updates(1.0)
    assert np.all(still['a/kernel'] < 0)
    assert np.all(still['a/bias'] == 0) and np.all(still['bn/scale'] == 0)
    assert all(np.all(m < 0) for m in moved.values())


def test_sgd_with_momentum_is_its_recursion():
    """v = m v + g; Nesterov's update is g + m v (Sutskever et al., 2013)."""
    config = TrainConfig(optimizer='sgd', momentum=0.9, weight_decay=0.0)
    optimizer = make_optimizer(config, lambda _: 0.5)
    params, velocity = {'kernel': jnp.zeros(1)}, 0.0
    state = optimizer.init(params)
    for gradient in (1.0, -2.0, 3.0):
        update, state = optimizer.update({'kernel': jnp.array([gradient])}, state, params)
        velocity = 0.9 * velocity + gradient
        np.testing.assert_allclose(
            update['kernel'], [-0.5 * (gradient + 0.9 * velocity)], rtol=1e-6
        )


def test_adadelta_is_its_recursion():
    """Zeiler 2012, algorithm 1, with its decay of 0.95 and epsilon of 1e-6."""
    optimizer = make_optimizer(TrainConfig(optimizer='adadelta', weight_decay=0.0), lambda _: 1.0)
    params = {'kernel': jnp.zeros(1)}
    state, squares, moves = optimizer.init(params), 0.0, 0.0
    for gradient in (1.0, -2.0, 3.0):
        update, state = optimizer.update({'kernel': jnp.array([gradient])}, state, params)
        squares = 0.95 * squares + 0.05 * gradient**2
        move = -np.sqrt((moves + 1e-6) / (squares + 1e-6)) * gradient
        moves = 0.95 * moves + 0.05 * move**2
        np.testing.assert_allclose(update['kernel'], [move], rtol=1e-5)


def test_clipping_bounds_the_whole_norm():
    config = TrainConfig(optimizer='sgd', momentum=0.0, weight_decay=0.0, clip_norm=2.0)
    optimizer = make_optimizer(config, lambda _: 1.0)
    grads = jax.tree.map(lambda p: jnp.full_like(p, 10.0), PARAMS)
    update, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    norm = math.sqrt(sum(float(jnp.sum(u**2)) for u in update.values()))
    assert norm == pytest.approx(2.0, rel=1e-5)


def test_sums_are_exact_over_uneven_batches():
    """Compares with scikit-learn; the padding is not finite."""
    from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

    chance = np.random.default_rng(0)
    logits = chance.normal(size=(53, 7)).astype(np.float32)
    labels = chance.integers(0, 7, 53).astype(np.int32)
    total = None
    for start in range(0, 53, 16):
        part, own = logits[start : start + 16], labels[start : start + 16]
        pad = 16 - len(own)
        sums = metrics.example_sums(
            jnp.concatenate([part, jnp.full((pad, 7), jnp.inf)]),
            jnp.concatenate([own, jnp.zeros(pad, jnp.int32)]),
            jnp.concatenate([jnp.ones(len(own)), jnp.zeros(pad)]),
        )
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    chances = np.exp(logits.astype('f8'))
    found = metrics.summary(total)
    assert np.array_equal(total['confusion'], confusion_matrix(labels, logits.argmax(1)))
    assert found['loss'] == pytest.approx(
        log_loss(labels, chances / chances.sum(1, keepdims=True)), rel=1e-5
    )
    assert found['accuracy'] == np.mean(logits.argmax(1) == labels)
    assert found['top_5_accuracy'] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    table = metrics.class_table(total['confusion'], tuple('abcdefg'))
    assert len(table.splitlines()) == 8


def test_errors_of_other_processes_are_told_from_damage(monkeypatch):
    """Uses errors that jax 0.10 raises for a lost process and TensorStore for a damaged file."""
    gone = 'UNKNOWN: Gloo AllGather failed: Read error [127.0.0.1]:46219: Connection reset by peer'
    of_peers = jax.errors.JaxRuntimeError(gone), ValueError(gone), OSError('Orbax: no barrier')
    of_peers[2].__cause__ = of_peers[0]
    others = (
        ValueError('FAILED_PRECONDITION: Error reading "step" in OCDBT database: Truncated stream'),
        OSError(28, 'No space left on device'),
    )
    assert not any(map(processes.of_peers, of_peers + others))  # one process has no peers
    monkeypatch.setattr(processes, 'are_several', lambda: True)
    assert all(map(processes.of_peers, of_peers))
    assert not any(map(processes.of_peers, others))

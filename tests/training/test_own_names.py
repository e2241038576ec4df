"""Schedules, optimisers and tasks that a user's own file registers."""

import json

import jax
import numpy as np
import optax
import pytest

from cnn_jax import training
from cnn_jax.errors import UserError
from cnn_jax.training.optimizer import OPTIMIZERS, SCHEDULES
from cnn_jax.training.tasks import TASKS
from tools.scripts import errors, run

PLUGIN = """
import jax.numpy as jnp
import optax

from cnn_jax.training.optimizer import OPTIMIZERS, SCHEDULES, is_kernel


@SCHEDULES.register('inverse_sqrt')
def inverse_sqrt(config, total_steps, warmup_steps):
    return lambda step: config.learning_rate / jnp.sqrt(1.0 + step)


@OPTIMIZERS.register('lion')
def lion(config, schedule):
    return optax.lion(schedule, weight_decay=config.weight_decay, mask=is_kernel)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    for registry in (SCHEDULES, OPTIMIZERS, TASKS):
        monkeypatch.setattr(registry, '_values', dict(registry._values))
    path = tmp_path / 'mine.py'
    path.write_text(PLUGIN)
    return path


def test_a_plugin_adds_a_schedule_and_an_optimiser(plugin):
    config = training.TrainConfig(
        plugin=str(plugin), schedule='inverse_sqrt', optimizer='lion', learning_rate=0.5
    )
    rate = training.optimizer.learning_rate(config, 10, 2)
    np.testing.assert_allclose([rate(i) for i in range(4)], [0.25, 0.5, 0.5, 0.5 / 2**0.5])
    made = training.optimizer.make_optimizer(config, rate)
    params = {'a/kernel': np.ones(2, np.float32)}
    updates, _ = made.update(params, made.init(params), params)
    lion = optax.lion(rate, weight_decay=config.weight_decay)
    wanted, _ = lion.update(params, lion.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, updates, wanted)


def test_the_plugin_is_part_of_the_run(plugin, tmp_path, monkeypatch):
    """Trains with a plugin, evaluates from another folder, and reports a missing plugin."""
    workdir, elsewhere = tmp_path / 'run', tmp_path / 'elsewhere'
    elsewhere.mkdir()
    flags = ['--schedule=inverse_sqrt', '--optimizer=lion', '--steps=4', '--learning_rate=1e-4']
    monkeypatch.chdir(tmp_path)
    run('train.py', '--plugin=mine.py', *flags, f'--workdir={workdir}')
    assert json.loads((workdir / 'config.json').read_text())['plugin'] == str(plugin)
    monkeypatch.chdir(elsewhere)
    assert 'accuracy' in run('evaluate.py', f'--workdir={workdir}')
    plugin.unlink()
    (line,) = errors('evaluate.py', (f'--workdir={workdir}',))
    assert 'there is no such file' in line


@pytest.mark.parametrize('name', ['nowhere.py', 'no_such_module'])
def test_a_plugin_that_does_not_exist_is_named(name):
    with pytest.raises(UserError, match=f'plugin=.*{name}.*no such'):
        training.TrainConfig(plugin=name)


def test_an_error_inside_a_plugin_keeps_its_traceback(tmp_path):
    (tmp_path / 'broken.py').write_text('import a_module_that_is_not_installed')
    with pytest.raises(ModuleNotFoundError, match='a_module_that_is_not_installed'):
        training.TrainConfig(plugin=str(tmp_path / 'broken.py'))


def test_a_task_from_outside_is_read_again(plugin, tmp_path):
    class OwnConfig(training.TrainConfig):
        task = 'own'

    config = OwnConfig(steps=1)
    with training.Workdir(tmp_path / 'run', config).hold():
        pass
    with pytest.raises(UserError, match="unknown task 'own'; must be one of classification"):
        training.read_config(tmp_path / 'run')
    TASKS.register('own', training.tasks.Task(OwnConfig, lambda config, folder: None, str))
    assert isinstance(training.read_config(tmp_path / 'run'), OwnConfig)

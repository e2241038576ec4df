"""Runs with random weights for the tests of exports. This file contains no tests."""

import jax.numpy as jnp
import numpy as np

from cnn_jax import training
from cnn_jax.training.generation import PLAYERS, of_both
from cnn_jax.training.tasks import TASKS


def arrays(shapes, chance):
    """Random values that keep the variance near 1, with statistics unlike those of new layers."""
    spread = {
        'var': lambda s: chance.uniform(0.5, 2, s.shape),
        'scale': lambda s: chance.uniform(0.5, 1.5, s.shape),
        'kernel': lambda s: chance.normal(size=s.shape) * np.sqrt(2 / np.prod(s.shape[:-1])),
    }
    small = lambda s: 0.2 * chance.normal(size=s.shape)  # noqa: E731
    return {
        name: jnp.asarray(spread.get(name.rpartition('/')[2], small)(s), s.dtype)
        for name, s in shapes.items()
    }


def save(config, folder):
    """Writes a run with random weights; returns its job, parameters and model state."""
    workdir = training.Workdir(folder, config)
    with workdir.hold():
        job = TASKS.lookup(config.task).make_job(config, workdir.path)
        workdir.describe(job.dataset)
        chance = np.random.default_rng(0)
        if config.model == 'dcgan':
            params = of_both({name: arrays(job.nets[name].params, chance) for name in PLAYERS})
            state = of_both({name: arrays(job.nets[name].model_state, chance) for name in PLAYERS})
        else:
            params, state = arrays(job.net.params, chance), arrays(job.net.model_state, chance)
        with training.Checkpoints(workdir.checkpoints) as checkpoints:
            checkpoints.save(1, {'params': params, 'rest': state})
    return job, params, state

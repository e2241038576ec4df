"""Runs with random weights for the tests of exports. This file contains no tests."""

import numpy as np

from cnn_jax import training
from cnn_jax.training.generation import PLAYERS, of_both
from cnn_jax.training.tasks import TASKS
from tools.small_models import arrays


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

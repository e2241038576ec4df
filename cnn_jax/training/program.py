"""Recognises the program of a run, so that a folder is not resumed by another program.

A run that is described by names has a configuration to compare. What a user gives as objects (a
loss, an optimiser, an augmentation) has none, but its step can be traced: the same program gives
the same equations and constants.
"""

import hashlib
import importlib.metadata
import json
import re
from typing import Any

import jax
import numpy as np

from cnn_jax.training.job import Job, batch_shapes
from cnn_jax.training.workdir import Workdir, WorkdirError, write_atomically

PROGRAM = 'program.json'
_ADDRESS = re.compile(r'0x[0-9a-f]+')  # of functions, in the text of equations


def describe(job: Job) -> dict[str, Any]:
    """Returns a digest of the initial state and the step, and what else the digest depends on."""
    state = jax.eval_shape(job._init)
    traced = [
        jax.make_jaxpr(job._init)(),
        jax.make_jaxpr(job.step())(state, batch_shapes(job.dataset, job.config.batch_size)),
    ]
    digest = hashlib.sha256(job.objective.metric.encode())
    for closed in traced:
        digest.update(_ADDRESS.sub('', str(closed.jaxpr)).encode())
        for constant in closed.consts:
            if not jax.dtypes.issubdtype(constant.dtype, jax.dtypes.extended):
                digest.update(np.ascontiguousarray(constant).tobytes())
    return {
        'digest': digest.hexdigest()[:16],
        'traced_by': {
            'platform': job.devices.platform,
            **{n: importlib.metadata.version(n) for n in ('jax', 'flax', 'optax')},
        },
    }


def write(workdir: Workdir, job: Job) -> None:
    """Writes the description that `check` compares, if it is not there."""
    file = workdir.path / PROGRAM
    if not file.exists():
        write_atomically(file, json.dumps(describe(job), indent=2) + '\n')


def check(workdir: Workdir, job: Job) -> None:
    """Checks that the folder belongs to this program, as far as the versions allow it.

    Raises:
        WorkdirError: the folder belongs to another program, or the description cannot be read.
    """
    file = workdir.path / PROGRAM
    try:
        there = json.loads(file.read_text())
        digest, traced_by = there['digest'], there['traced_by']
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkdirError(f'{file} cannot be read: {error!r}') from error
    here = describe(job)
    if here['traced_by'] == traced_by and here['digest'] != digest:
        raise WorkdirError(
            f'workdir={str(workdir.path)!r} belongs to another program: the model, loss, metrics, '
            'optimiser, augmentation or initial weights have changed; use another workdir, or the '
            'same objects to resume the run'
        )

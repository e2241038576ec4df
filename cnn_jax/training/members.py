"""Builds the program that trains several runs, the members, at once.

The members may differ in seed, learning rate and weight decay. Their states are stacked along a new
leading axis, and `jax.vmap` maps the step of one run over it. Each member draws the same initial
parameters, order of examples and random numbers as in a program of its own, so the results agree
up to rounding.
"""

import copy
import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cnn_jax.data import Loader
from cnn_jax.errors import UserError
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.devices import AXIS, Devices
from cnn_jax.training.job import Job, common_parts, make_job
from cnn_jax.training.optimizer import make_optimizer
from cnn_jax.training.parallel import Jit
from cnn_jax.training.prefetch import RESIDENT_BYTES, Prefetcher
from cnn_jax.training.state import Arrays, TrainState
from cnn_jax.training.step import several_steps

VARIES = ('seed', 'learning_rate', 'weight_decay')  # fields in which members may differ


@dataclasses.dataclass(frozen=True)
class Members:
    """The members of one program; see `make_members`.

    Attributes:
        jobs: the job of each member, all with the same network, data set and devices.
        names: a name for each member, such as 'seed=0,learning_rate=0.01'.
    """

    jobs: tuple[Job, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.jobs)

    def take(self, chosen: Sequence[int]) -> 'Members':
        """Returns the members with these indices."""
        jobs = tuple(self.jobs[i] for i in chosen)
        devices = _devices_for(len(jobs))
        return Members(
            tuple(dataclasses.replace(job, devices=devices) for job in jobs),
            tuple(self.names[i] for i in chosen),
        )

    @property
    def sharding(self) -> NamedSharding:
        """Divides the members over the devices."""
        return self.jobs[0].devices.rows()

    def init(self) -> list[TrainState]:
        """Returns the state of each member before its first step, as its own `Job.init` does."""
        first = self.jobs[0]
        init = jax.jit(
            lambda member: _traced(self.jobs, member)._init(),
            out_shardings=first.devices.replicated,
        )
        scalars = _scalars(self.jobs)
        # As in `BaseJob.init`: compiling takes longer than running.
        fast = {'xla_backend_optimization_level': 0} if first.devices.platform == 'cpu' else None
        compiled = init.lower(_member(scalars, 0)).compile(compiler_options=fast)
        return [job.prepare(compiled(_member(scalars, i))) for i, job in enumerate(self.jobs)]

    def stack(self, states: Sequence[TrainState]) -> TrainState:
        """Returns the states stacked along a new leading axis, divided over the devices."""
        stacked = jax.tree.map(lambda *leaves: np.stack(jax.device_get(leaves)), *states)
        return jax.device_put(stacked, self.sharding)

    def unstack(self) -> Callable[[TrainState], list[TrainState]]:
        """Returns the function that undoes `stack`."""
        count = len(self)

        def unstack(stacked):
            leaves, tree = jax.tree.flatten(stacked)
            return [jax.tree.unflatten(tree, [leaf[i] for leaf in leaves]) for i in range(count)]

        return jax.jit(unstack, out_shardings=self.jobs[0].devices.replicated)

    def compile(self, steps_per_call: int) -> Callable[..., tuple[TrainState, Arrays]]:
        """Returns (stacked state, data, rows, count) -> (stacked state, metrics).

        The arguments are those of `step.several_steps` for data that are kept on the devices, and
        `rows` is (members, S, N). State, rows and metrics have the members as their first axis.
        """
        jobs = self.jobs

        def one(state, member, data, rows, count):
            step = _traced(jobs, member).step()
            return several_steps(step, steps_per_call, resident=True)(state, data, rows, count)

        calls = jax.vmap(one, in_axes=(0, 0, None, 0, None))
        devices = jobs[0].devices
        if devices.count > 1:
            each, same = PartitionSpec(AXIS), PartitionSpec()
            calls = jax.shard_map(
                calls,
                mesh=devices.mesh,
                in_specs=(each, each, same, each, same),
                out_specs=each,
                check_vma=False,
            )
        compiled = jax.jit(calls, donate_argnums=0)
        scalars = jax.device_put(_scalars(jobs), self.sharding)
        return lambda state, data, rows, count: compiled(state, scalars, data, rows, count)

    def prefetcher(self, steps_per_call: int) -> Prefetcher:
        """Returns the source of the arguments `data`, `rows` and `count`."""
        return _MembersPrefetcher(self, steps_per_call)


class _MembersPrefetcher(Prefetcher):
    """Prepares the rows of all members; each has the order of its own seed."""

    def __init__(self, members: Members, steps_per_call: int):
        first = members.jobs[0]
        split, size = first.dataset.splits['train'], first.config.batch_size
        self._loaders = [Loader(split, size, seed=job.config.seed) for job in members.jobs]
        self._sharding = members.sharding
        super().__init__(
            split,
            size,
            seed=first.config.seed,
            steps_per_call=steps_per_call,
            parallel=Jit(first.devices),
            resident=True,
        )

    def _rows(self, step: int, count: int) -> jax.Array:
        # Member by member, because the orders of only a few epochs are cached.
        rows = [[loader.rows(step + i) for i in range(count)] for loader in self._loaders]
        return jax.device_put(np.array(rows, np.int32), self._sharding)


def make_members(configs: Sequence[TrainConfig]) -> Members:
    """Builds the members of one program; they share everything but the fields `VARIES`.

    Raises:
        UserError: the configurations differ in another field, two are equal, or the data set is
            too large to be kept on a device.
        ValueError, TypeError, OSError: as `make_job`.
    """
    if not configs:
        raise UserError('no runs: give at least one')
    for config in configs[1:]:
        if differing := set(_differing([configs[0], config])) - set(VARIES):
            name = sorted(differing)[0]
            values = [getattr(each, name) for each in (configs[0], config)]
            raise UserError(
                f'{name}={values[1]!r}: runs that train together must have the same {name}, here '
                f'{values[0]!r}; they may differ in {", ".join(VARIES)}'
            )
    for i, config in enumerate(configs):
        if config in configs[:i]:
            raise UserError(f'seed={config.seed}: two runs that train together are equal')
    if configs[0].parallel != 'jit':
        raise UserError(
            f'parallel={configs[0].parallel!r}: runs that train together divide the devices among '
            'themselves, which needs jit'
        )
    for name in ('early_stopping', 'track', 'profile_steps'):
        if value := getattr(configs[0], name):
            raise UserError(f'{name}={value!r}: not for runs that train together; use train.py')
    first = make_job(configs[0])
    train = first.dataset.splits['train']
    if (size := train.inputs.nbytes) > RESIDENT_BYTES:
        raise UserError(
            f'dataset={configs[0].dataset!r}: the training examples of runs that train together '
            f'must fit in {RESIDENT_BYTES >> 20} MiB, not {size >> 20}'
        )
    devices = _devices_for(len(configs))
    jobs = [
        dataclasses.replace(
            first, **common_parts(config, first.dataset, devices, factors=first.factors)
        )
        for config in configs
    ]
    fields = _differing(configs)
    names = [','.join(f'{f}={getattr(c, f)}' for f in fields) or 'run' for c in configs]
    return Members(tuple(jobs), tuple(names))


def spread(configs: Sequence[TrainConfig], results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describes the runs of each choice of hyperparameters, which differ only in their seeds.

    Args:
        configs: the configurations of the runs.
        results: the content of `result.json` of each run.

    Returns:
        One line for each choice with several seeds: mean and sample standard deviation of the
        metric of the task.
    """
    fields = [name for name in _differing(configs) if name in VARIES[1:]]
    groups: dict[str, list[float]] = {}
    what = ''
    for config, result in zip(configs, results, strict=True):
        split = next((name for name in ('test', 'validation') if name in result), None)
        if split is None:
            continue
        what = f'{split} {result["metric"].replace("_", " ")}'
        name = ','.join(f'{field}={getattr(config, field)}' for field in fields) or 'all'
        groups.setdefault(name, []).append(result[split][result['metric']])
    return [
        f'{name}: {what} {statistics.mean(values):.4f} +- {statistics.stdev(values):.4f} '
        f'({len(values)} seeds)'
        for name, values in groups.items()
        if len(values) > 1
    ]


def _devices_for(count: int) -> Devices:
    """Returns as many devices as divide `count` members, and any batch for all devices, evenly."""
    everything = jax.devices()
    return Devices.all(everything[: math.gcd(count, len(everything))])


def _differing(configs: Sequence[TrainConfig]) -> list[str]:
    names = [field.name for field in dataclasses.fields(configs[0])]
    return [n for n in names if any(getattr(c, n) != getattr(configs[0], n) for c in configs)]


def _scalars(jobs: Sequence[Job]) -> Arrays:
    """Returns (members,) arrays: all that distinguishes the step of one member from another's."""
    configs = [job.config for job in jobs]
    rates = list(_schedules(jobs))
    # A key depends on the low 32 bits of its seed.
    seeds = np.array([c.seed & 0xFFFFFFFF for c in configs], np.uint32)
    return {
        'seed': seeds.view(np.int32),
        'rate': np.array([rates.index(c.learning_rate) for c in configs], np.int32),
        'weight_decay': np.array([c.weight_decay for c in configs], np.float32),
    }


def _member(scalars: Arrays, i: int) -> Arrays:
    return {name: values[i] for name, values in scalars.items()}


def _schedules(jobs: Sequence[Job]) -> dict[float, Callable[[Any], Any]]:
    return {job.config.learning_rate: job.schedule for job in jobs}


def _traced(jobs: Sequence[Job], member: Arrays) -> Job:
    """Returns the job of one member as a function of its scalars, which may be traced."""
    first, schedules = jobs[0], list(_schedules(jobs).values())

    def schedule(step):
        # A selection among the members' own schedules, so that a schedule may be any function of
        # the learning rate.
        return jnp.stack([jnp.asarray(s(step), jnp.float32) for s in schedules])[member['rate']]

    changed: dict[str, Any] = {'seed': member['seed']}
    if len(schedules) == 1:
        schedule = schedules[0]
    else:
        changed['learning_rate'] = None  # an optimiser uses its schedule
    if len({job.config.weight_decay for job in jobs}) > 1:
        changed['weight_decay'] = member['weight_decay']
    config = copy.copy(first.config)
    for name, value in changed.items():
        object.__setattr__(config, name, value)  # not checked: arrays are not of the declared type
    optimizer = make_optimizer(config, schedule, first.factors)
    return dataclasses.replace(first, config=config, schedule=schedule, optimizer=optimizer)

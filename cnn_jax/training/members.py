"""Builds the program that trains several runs, the members, at once.

The members may differ in seed, learning rate and weight decay. Their states are stacked along a new
leading axis, and `jax.vmap` maps the step of one run over it. Each member draws the same initial
parameters, order of examples and random numbers as in a program of its own, so the results agree
up to rounding.
"""

import copy
import dataclasses
import functools
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from cnn_jax import machine
from cnn_jax.data import Loader
from cnn_jax.data.loader import evaluation_batches
from cnn_jax.errors import UserError
from cnn_jax.ops.kernels.native import build as native
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.devices import Devices
from cnn_jax.training.evaluation import BatchSums, Sums, evaluated_params
from cnn_jax.training.job import Job, common_parts, make_job
from cnn_jax.training.loop import STEPS_PER_CALL
from cnn_jax.training.mesh import DATA
from cnn_jax.training.optimizer import make_optimizer
from cnn_jax.training.parallel import Jit
from cnn_jax.training.prefetch import RESIDENT_BYTES, Prefetcher
from cnn_jax.training.state import Arrays, TrainState
from cnn_jax.training.step import several_steps

CPU_STEPS_PER_CALL = 10
VARIES = ('seed', 'learning_rate', 'weight_decay')  # fields in which members may differ


@dataclasses.dataclass(frozen=True)
class Members:
    """The members of one program; see `make_members`.

    Attributes:
        jobs: the job of each member, on one device; all have the same network and data set.
        names: a name for each member, such as 'seed=0,learning_rate=0.01'.
    """

    jobs: tuple[Job, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.jobs)

    def take(self, chosen: Sequence[int]) -> 'Members':
        """Returns the members with these indices."""
        return Members(
            tuple(self.jobs[i] for i in chosen),
            tuple(self.names[i] for i in chosen),
        )

    @functools.cached_property
    def devices(self) -> Devices:
        """The devices, as many as divide the members evenly."""
        everything = jax.devices()
        return Devices.all(everything[: math.gcd(len(self), len(everything))])

    @property
    def steps_per_call(self) -> int:
        """The number of steps of one call.

        XLA's CPU backend runs a loop over steps on one thread. That costs nothing where a device
        has one core; few steps, so that a signal need not wait for long.
        """
        if self.devices.platform != 'cpu':
            return STEPS_PER_CALL
        return CPU_STEPS_PER_CALL if machine.cores() <= self.devices.count else 1

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
        return jax.device_put(stacked, self.devices.rows())

    def unstack(self, stacked: TrainState) -> list[TrainState]:
        """Returns the state of each member in NumPy arrays of their own."""
        host = jax.device_get(stacked)
        return [jax.tree.map(np.array, _member(host, i)) for i in range(len(self))]

    def compile(self) -> Callable[..., tuple[TrainState, Arrays]]:
        """Returns (stacked state, data, rows, count) -> (stacked state, metrics).

        The arguments are those of `step.several_steps` for data that are kept on the devices, and
        `rows` is (members, S, N). State, rows and metrics have the members as their first axis.
        """
        jobs = self.jobs

        def one(state, member, data, rows, count):
            step = _traced(jobs, member).step()
            calls = several_steps(step, self.steps_per_call, resident=True)
            return calls(state, data, rows, count)

        compiled = self._map(one, in_axes=(0, 0, None, 0, None))
        scalars = self.devices.put_rows(_scalars(jobs))
        return lambda state, data, rows, count: compiled(state, scalars, data, rows, count)

    def evaluator(self, split: str) -> Callable[[TrainState], list[Sums]]:
        """Returns stacked state -> `evaluation.Sums` of each member on a split."""
        first = self.jobs[0]
        examples, size = first.dataset.splits[split], first.config.batch_size
        sums = BatchSums(first.net, first.objective, first.dataset)
        add = self._map(sums.add, in_axes=(0, 0, 0, None))
        zero = jax.tree.map(lambda a: np.stack([a] * len(self)), sums.zero(examples))

        def of_params(params: Arrays, model_state: Arrays) -> Arrays:
            found = self.devices.put_rows(zero)
            for batch in evaluation_batches(examples, size):
                found = add(found, params, model_state, self.devices.put(batch))
            return jax.device_get(found)

        def of_state(stacked: TrainState) -> list[Sums]:
            all_params = evaluated_params(stacked).items()
            found = {name: of_params(params, stacked.model_state) for name, params in all_params}
            return [_member(found, i) for i in range(len(self))]

        return of_state

    def _map(self, function: Callable, in_axes: Sequence[int | None]) -> Callable:
        """Compiles a function of one member for all members; the first argument is donated."""
        mapped = jax.vmap(function, in_axes)
        if self.devices.count > 1:
            each, same = PartitionSpec(DATA), PartitionSpec()
            mapped = jax.shard_map(
                mapped,
                mesh=self.devices.mesh,
                in_specs=tuple(same if axis is None else each for axis in in_axes),
                out_specs=each,
                check_vma=False,
            )
        return jax.jit(mapped, donate_argnums=0)

    def prefetcher(self) -> Prefetcher:
        """Returns the source of the arguments `data`, `rows` and `count`."""
        return _MembersPrefetcher(self)


class _MembersPrefetcher(Prefetcher):
    """Prepares the rows of all members; each has the order of its own seed."""

    def __init__(self, members: Members):
        first = members.jobs[0]
        split, size = first.dataset.splits['train'], first.config.batch_size
        self._loaders = [Loader(split, size, seed=job.config.seed) for job in members.jobs]
        self._sharding = members.devices.rows()
        super().__init__(
            split,
            size,
            seed=first.config.seed,
            steps_per_call=members.steps_per_call,
            parallel=Jit(members.devices),
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
    for name in ('early_stopping', 'progressive', 'track', 'profile_steps', 'mesh'):
        if value := getattr(configs[0], name):
            raise UserError(f'{name}={value!r}: not for runs that train together; use train.py')
    one_device = Devices.all(jax.devices()[:1])
    first = make_job(configs[0], one_device)
    train = first.dataset.splits['train']
    if (size := train.inputs.nbytes) > RESIDENT_BYTES:
        raise UserError(
            f'dataset={configs[0].dataset!r}: the training examples of runs that train together '
            f'must fit in {RESIDENT_BYTES >> 20} MiB, not {size >> 20}'
        )
    parts = functools.partial(common_parts, dataset=first.dataset, devices=one_device)
    jobs = [
        dataclasses.replace(first, **parts(config, factors=first.factors)) for config in configs
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


def divide_cores(count: int) -> None:
    """Makes the CPU several devices, among which `count` members are divided evenly.

    One operation of a small network is too little work to be divided among cores; members on
    different devices are independent of each other.

    Call this before JAX computes anything. It has no effect on accelerators, nor if the number of
    CPU devices has been set already.
    """
    set_by_flag = 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', '')
    if jax.config.jax_num_cpu_devices >= 0 or set_by_flag:
        return
    devices = math.gcd(count, machine.cores())
    jax.config.update('jax_num_cpu_devices', devices)
    if devices > 1:
        native.divide(devices)


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


def _member(stacked: Any, i: int) -> Any:
    return jax.tree.map(lambda a: a[i], stacked)


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

"""Times the steps of several runs in one program against the same steps one run after the other:

    python tools/members_speed.py --members=8                  # the defaults of train.py: digits
    python tools/members_speed.py --members=8 --flagfile=experiments/recipes/mnist1d_cnn.flags

Both ways alternate in one process, so other load on the machine affects both alike. Prints the
median and the quartiles of the time in which every run has done one step.
"""

import dataclasses
import time

import jax
import numpy as np
from absl import flags

from cnn_jax import cli, training
from cnn_jax.training import members
from cnn_jax.training.prefetch import Prefetcher
from cnn_jax.training.step import several_steps

cli.define_flags(training.TrainConfig)
flags.DEFINE_integer('members', 8, 'number of runs', lower_bound=2)
flags.DEFINE_integer('rounds', 20, 'number of rounds', lower_bound=1)
STEPS = 4  # per round


def together(some):
    """Returns a function that does one step of every run in one call."""
    call, feed = some.compile(1), some.prefetcher(1)
    arguments, state = feed.get(0, 1), [some.stack(some.init())]

    def step():
        state[0], metrics = call(state[0], *arguments)
        return metrics

    return step


def one_by_one(some):
    """Returns a function that does one step of every run, each in a call of its own."""
    job = some.jobs[0]
    split = job.dataset.splits['train']
    way = job.parallel
    options = {'seed': job.config.seed, 'steps_per_call': 1, 'parallel': way}
    arguments = Prefetcher(split, job.config.batch_size, **options).get(0, 1)
    call = way.compile(several_steps(job.step(), 1, resident=True), True)
    states = some.init()

    def step():
        for i, state in enumerate(states):
            states[i], metrics = call(state, *arguments)
        return metrics

    return step


def main(argv):
    del argv
    with cli.bad_input():
        config = cli.from_flags(training.TrainConfig)
        count = flags.FLAGS.members
        configs = [dataclasses.replace(config, seed=seed) for seed in range(count)]
        some = members.make_members(configs)
    ways = {'one by one': one_by_one(some), 'together': together(some)}
    times = {name: [] for name in ways}
    for number in range(flags.FLAGS.rounds + 1):
        for name, step in ways.items():
            begun = time.perf_counter()
            for _ in range(STEPS):
                metrics = step()
            jax.block_until_ready(metrics)
            if number:  # the first round compiles
                times[name].append((time.perf_counter() - begun) / STEPS * 1e3)
    medians = {name: np.median(values) for name, values in times.items()}
    for name, values in times.items():
        low, high = np.percentile(values, [25, 75])
        print(f'{name:10}  {medians[name]:.2f} ms, quartiles {low:.2f} to {high:.2f}')
    print(f'{count} runs together: {medians["one by one"] / medians["together"]:.2f} times as fast')


if __name__ == '__main__':
    cli.run(main)

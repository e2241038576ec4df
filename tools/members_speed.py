"""Times the steps of several runs in one program against the same steps one run after the other:

    python tools/members_speed.py --members=8                  # the defaults of train.py: digits
    python tools/members_speed.py --members=8 --flagfile=experiments/recipes/mnist1d_cnn.flags

Each way has a process with the settings of its script. The two alternate, so other load on the
machine affects both alike. Prints the median and the quartiles of the time in which every run has
done one step.
"""

import contextlib
import dataclasses
import subprocess
import sys
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
WAYS = ('one by one', 'together')
flags.DEFINE_enum('only', None, WAYS, 'serve one way: time a round for every line that is read')
STEPS = 20  # per round


def together(some):
    """Returns a function that does `STEPS` steps of every run, in as few calls as the loop."""
    call, feed, state = some.compile(), some.prefetcher(), [some.stack(some.init())]

    def steps():
        done = 0
        while done < STEPS:
            count = min(feed.room(done), STEPS - done)
            state[0], metrics = call(state[0], *feed.get(done, count))
            done += count
        return metrics

    return steps


def one_by_one(some):
    """Returns a function that does `STEPS` steps of every run, each in a call of its own."""
    job = some.jobs[0]
    split = job.dataset.splits['train']
    way = job.parallel
    options = {'seed': job.config.seed, 'steps_per_call': 1, 'parallel': way}
    arguments = Prefetcher(split, job.config.batch_size, **options).get(0, 1)
    call = way.compile(several_steps(job.step(), 1, resident=True), True)
    states = some.init()

    def steps():
        for i, state in enumerate(states):
            for _ in range(STEPS):
                state, metrics = call(state, *arguments)
            states[i] = state
        return metrics

    return steps


def serve(way):
    """Prints the milliseconds in which every run does one step, for every line that is read."""
    with cli.bad_input():
        config = cli.from_flags(training.TrainConfig)
        count = flags.FLAGS.members
        configs = [dataclasses.replace(config, seed=seed) for seed in range(count)]
        if way == 'together':
            members.divide_cores(count)
        some = members.make_members(configs)
    steps = together(some) if way == 'together' else one_by_one(some)
    jax.block_until_ready(steps())  # compiles
    print('ready', flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        jax.block_until_ready(steps())
        print((time.perf_counter() - begun) / STEPS * 1e3, flush=True)


def start(way):
    command = [sys.executable, *sys.argv, f'--only={way}']
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


def main(argv):
    del argv
    if flags.FLAGS.only:
        return serve(flags.FLAGS.only)
    times = {way: [] for way in WAYS}
    with contextlib.ExitStack() as stack:
        servers = {way: stack.enter_context(start(way)) for way in WAYS}
        for way, server in servers.items():
            if not server.stdout.readline():
                sys.exit(f'{way}: ended with exit code {server.wait()}')
        for _ in range(flags.FLAGS.rounds):
            for way, server in servers.items():
                print(file=server.stdin)
                times[way].append(float(server.stdout.readline()))
    medians = {way: np.median(values) for way, values in times.items()}
    for way, values in times.items():
        low, high = np.percentile(values, [25, 75])
        print(f'{way:10}  {medians[way]:.2f} ms, quartiles {low:.2f} to {high:.2f}')
    gain = medians['one by one'] / medians['together']
    print(f'{flags.FLAGS.members} runs together: {gain:.2f} times as fast')


if __name__ == '__main__':
    cli.run(main)

"""Trains several runs in one program, which starts and compiles only once:

    python experiments/train_members.py --dataset=digits --epochs=10 \\
        --run='--seed=0 --workdir=runs/a' --run='--seed=1 --workdir=runs/b'

Each --run holds the flags in which a run differs from the others: --workdir, and --seed,
--learning_rate or --weight_decay. All other flags are those of train.py. Each run ends as if
train.py had trained it, up to rounding, and has the same folder, but pictures only with
--pictures. Repeating the command skips finished runs and resumes the others, and so does train.py.
Mean and standard deviation over the seeds are printed at the end.

Exit codes: as train.py; 76 if the loss or a gradient of some run was not finite (the others end).
"""

import contextlib
import shlex
import sys

from absl import flags

from cnn_jax import cli, training
from cnn_jax.errors import UserError

cli.define_flags(training.TrainConfig)
flags.DEFINE_multi_string(
    'run',
    [],
    'the flags of one run in which it differs from the others, with its --workdir; repeat this '
    'flag for every run',
)
flags.DEFINE_boolean('pictures', False, 'draw the pictures of every run, which takes some seconds')


def read_run(text: str) -> tuple[training.TrainConfig, training.Workdir]:
    """Returns the configuration and the folder of one --run.

    Raises:
        UserError: it has an unknown flag, an invalid value or no workdir.
    """
    values = flags.FlagValues()
    cli.define_flags(training.TrainConfig, values)
    cli.define_path('workdir', '', 'folder of the run', values=values)
    common = {name: flags.FLAGS[name].value for name in values if name in flags.FLAGS}
    try:
        rest = values(['--run', *shlex.split(text)])
    except (flags.Error, ValueError) as error:
        raise UserError(f'run={text!r}: {error}') from None
    if len(rest) > 1:
        raise UserError(f'run={text!r}: flags are written --name=value, not {rest[1]!r}')
    if not values.workdir:
        raise UserError(f'run={text!r}: lacks --workdir=DIR')
    for name, value in common.items():
        if not values[name].present:
            values[name].value = value
    config = cli.from_flags(training.TrainConfig, values)
    return config, training.Workdir(values.workdir, config)


def main(argv):
    del argv
    from cnn_jax.training import members, members_loop
    from cnn_jax.training.processes import say
    from cnn_jax.training.tasks import TASKS

    task = TASKS.lookup(training.TrainConfig.task)
    with contextlib.ExitStack() as held:
        with cli.bad_input():
            pairs = [read_run(text) for text in flags.FLAGS.run]
            finished = [(c, w) for c, w in pairs if w.result() and not w.moved_data()]
            pairs = [pair for pair in pairs if pair not in finished]
            members.divide_cores(len(pairs))  # before anything asks JAX for its devices
            for _, workdir in finished:
                say(f'already finished: {task.summary(workdir.result())}, in {workdir.path}')
            if finished and not pairs:
                return
            configs, workdirs = [c for c, _ in pairs], [w for _, w in pairs]
            together = members.make_members(configs)
            dataset = together.jobs[0].dataset
            for workdir in workdirs:
                workdir.check_dataset(dataset)
            for workdir in workdirs:
                held.enter_context(workdir.hold(dataset.task))
                workdir.describe(dataset)
        first = together.jobs[0]
        say(
            f'training {len(together)} runs of {first.config.model} on {first.config.dataset} '
            f'({len(dataset.splits["train"]):,} examples), {first.total_steps} steps of '
            f'{first.config.batch_size}, on {together.devices}'
        )
        with cli.training_errors():
            found = members_loop.train_members(together, workdirs)
        ended = [(c, w.result()) for c, w in finished]
        for job, workdir, each in zip(together.jobs, workdirs, found, strict=True):
            if isinstance(each, training.NotFiniteError):
                cli.report(f'{workdir.path}: {each}')
                continue
            state, result = each
            if flags.FLAGS.pictures:
                training.report.draw_or_warn(job, workdir, state, result)
            workdir.finish(result)
            ended.append((job.config, result))
            print(f'{task.summary(result)}, written to {workdir.path}')
    for line in members.spread(*zip(*ended, strict=True)) if ended else ():
        print(line)
    if len(ended) < len(finished) + len(together):
        sys.exit(cli.EXIT_NOT_FINITE)


if __name__ == '__main__':
    cli.run(main)

"""The command line of the scripts: flags, one-line errors, exit codes."""

import contextlib
import dataclasses
import errno
import inspect
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging

from cnn_jax.errors import MissingPackageError, UserError
from cnn_jax.output import ends_with_its_reader
from cnn_jax.tables import printable

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: stopped and saved; the same command resumes
EXIT_NOT_FINITE = 76
EXIT_NOT_SAVED = 78  # 77 is training.processes.EXIT_PEER_GONE
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

flags.disclaim_key_flags()  # list the flags defined here in the --help of the script

_DEFINE: dict[Any, Callable[..., Any]] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
}


def _excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if not isinstance(error, MissingPackageError):
        return sys.__excepthook__(kind, error, trace)
    return report(error)


# A script imports its modules before it can catch any error that they raise.
sys.excepthook = _excepthook


class _PathParser(flags.ArgumentParser):
    """Parses a local path; expands `~` to the home folder."""

    def parse(self, argument: str) -> str:
        if re.match('[a-z][a-z0-9+.-]*://', argument):
            raise ValueError(
                'object stores cannot be read or written; mount the store (gcsfuse, s3fs) and give '
                'the path of the mounted folder'
            )
        return os.path.expanduser(argument)


def define_path(
    name: str,
    default: str | None,
    help_text: str,
    *,
    required: bool = False,
    values: flags.FlagValues = flags.FLAGS,
) -> None:
    """Defines a flag for a file or a folder; expands `~` and rejects URLs."""
    flags.DEFINE(_PathParser(), name, default, help_text, flag_values=values, required=required)


def define_flags(config_class: type, values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one flag per field of a configuration class (see `config.option`)."""
    for field in dataclasses.fields(config_class):
        text = field.metadata['help']
        if field.metadata['choices']:
            text += f' ({"|".join(field.metadata["choices"])})'
        if field.metadata['is_path']:
            define_path(field.name, str(field.default), text, values=values)
        elif field.type is bool:
            flags.DEFINE_boolean(field.name, bool(field.default), text, flag_values=values)
        else:
            _DEFINE[field.type](field.name, field.default, text, flag_values=values)


def from_flags(config_class: type, values: flags.FlagValues = flags.FLAGS) -> Any:
    """Returns the configuration given by the flags of `define_flags`.

    Raises:
        ValueError: the configuration does not allow a value.
    """
    fields = dataclasses.fields(config_class)
    return config_class(**{field.name: getattr(values, field.name) for field in fields})


def define_process_flags() -> None:
    """Defines the flags that `join_processes` reads."""
    from cnn_jax.training import processes

    flags.DEFINE_string(
        'coordinator',
        '',
        'host:port of process 0 if several processes run together; auto: detect it from Slurm, '
        'Open MPI or the TPU',
    )
    flags.DEFINE_integer('num_processes', 0, 'number of processes that run together', lower_bound=0)
    flags.DEFINE_integer('process_id', -1, 'index of this process, from 0')
    flags.DEFINE_integer(
        'heartbeat_seconds',
        processes.HEARTBEAT_SECONDS,
        'seconds without a heartbeat from one process after which the others exit',
        lower_bound=1,
    )


def define_workdir_flag() -> None:
    define_path(
        'workdir', '', 'folder of the run (default: runs/<dataset>-<model>-<digest of the flags>)'
    )


def train(config_class: type) -> None:
    """Trains or resumes the run that the flags describe; the body of the training scripts."""
    from cnn_jax import training
    from cnn_jax.training import processes
    from cnn_jax.training.tasks import TASKS

    with bad_input():
        join_processes()
        config = from_flags(config_class)
        task = TASKS.lookup(config.task)
        name = training.workdir.default_name(config)
        workdir = training.Workdir(flags.FLAGS.workdir or f'runs/{name}', config)
        result = workdir.result()
        if result and task.is_complete(config, result) and not workdir.moved_data():
            reached = f'{task.summary(result)}, written to {workdir.path}'
            processes.say(f'already finished at step {result["step"]}: {reached}')
            return
        job = task.make_job(config, workdir.path)
        workdir.check_dataset(job.dataset)
        lock = workdir.hold(job.dataset.task)
        if processes.is_first():
            workdir.describe(job.dataset)
    parameters = ', '.join(f'{name} {n:,}' for name, n in job.num_parameters.items())
    processes.say(
        f'training {config.model} (parameters: {parameters}) on {config.dataset} '
        f'({len(job.dataset.splits["train"]):,} examples), {job.total_steps} steps of '
        f'{config.batch_size}, on {job.devices}'
    )
    with lock, training_errors():
        _, result = training.report.complete(job, workdir)
        if processes.is_first():
            print(f'{task.summary(result)}, written to {workdir.path}')


def join_processes() -> None:
    """Joins the processes of the run if the script has flags for them; see `processes.join`."""
    from cnn_jax.training import processes

    values = flags.FLAGS
    if 'coordinator' not in values:
        return
    processes.join(
        values.coordinator,
        values.num_processes,
        values.process_id,
        heartbeat_seconds=values.heartbeat_seconds,
    )


def define_checkpoint_flags() -> None:
    """Defines the flags that select the weights of a run to read; see `checkpoint`."""
    flags.DEFINE_string('step', 'newest', 'checkpoint to use: newest, best, or a step')
    flags.DEFINE_boolean('averaged', False, 'use the moving average of the weights (--ema)')


def checkpoint() -> int | str | None:
    """Returns the checkpoint selected by --step: a step, 'best', or None for the newest.

    Raises:
        UserError: --step is none of these.
    """
    text = flags.FLAGS.step
    if text in ('newest', '-1'):
        return None
    if text == 'best':
        return text
    if not text.isdecimal():
        raise UserError(f'step={text!r}: must be newest, best, or the step of a checkpoint')
    return int(text)


def integers(name: str, *, at_least: int = 0) -> tuple[int, ...]:
    """Returns the value of a list flag as integers.

    Raises:
        UserError: a value is not an integer or is less than `at_least`, or the list is empty.
    """
    texts = flags.FLAGS[name].value or ()
    try:
        numbers = tuple(map(int, texts))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < at_least:
        given = ','.join(texts)
        raise UserError(f'{name}={given!r}: must be integers of at least {at_least}, such as 1,2')
    return numbers


@contextlib.contextmanager
def bad_input() -> Iterator[None]:
    """Ends the program with one line and exit code 2 on a `UserError` or an OSError.

    Any other error is a bug, and keeps its traceback. If the environment variable CNN_JAX_TRACEBACK
    is set, every error keeps its traceback. Use this around the preparations, before anything long
    starts and before anything is written.
    """
    try:
        yield
    except BrokenPipeError:  # see `output.ends_with_its_reader`
        raise
    except (UserError, OSError) as error:
        if os.environ.get('CNN_JAX_TRACEBACK'):
            traceback.print_exc()
        fail(error)


@contextlib.contextmanager
def training_errors() -> Iterator[None]:
    """Ends the program with one line and an exit code if `training.train` cannot finish."""
    from cnn_jax import training

    try:
        yield
    except training.Interrupted as stop:
        fail(f'{stop}; run the same command again to resume', EXIT_INTERRUPTED)
    except training.NotFiniteError as error:
        fail(error, EXIT_NOT_FINITE)
    except UserError as error:  # damaged or foreign checkpoints; a tracker that cannot be opened
        fail(error)
    except OSError as error:
        if isinstance(error, training.SaveError) or error.errno in NO_ROOM:
            # Leave at once: files that are still open would be written at exit, and fail again.
            training.processes.leave_at_once(_one_line(error), EXIT_NOT_SAVED)
        raise


def fail(problem: Any, code: int = EXIT_BAD_INPUT) -> None:
    """Prints an error in one line on stderr, then exits."""
    report(problem)
    sys.exit(code)


def report(problem: Any) -> None:
    """Prints an error in one line on stderr."""
    print(f'error: {_one_line(problem)}', file=sys.stderr)


def _one_line(problem: Any) -> str:
    return printable(' '.join(str(problem).split())) or type(problem).__name__


def run(main: Callable[[Sequence[str]], int | None], *, takes_files: bool = False) -> None:
    """Runs `absl.app.run`; an invalid flag or a stray argument gives one line and exit code 2."""

    def parse(argv):
        try:
            rest = flags.FLAGS(argv)
        except flags.Error as error:
            fail(f'{error} (--helpshort lists the flags)')
        if len(rest) > 1 and not takes_files:
            fail(f'unexpected argument {rest[1]!r}: flags are written --name=value')
        if not flags.FLAGS['verbosity'].present:
            logging.set_verbosity(logging.ERROR)  # Orbax logs every phase of every save
        return rest

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')  # file names may contain any bytes
    sys.unraisablehook = _without_left_reads
    with ends_with_its_reader():
        if {'--help', '--helpshort', '-h', '--helpfull', '--helpxml'} & set(sys.argv[1:]):
            app.run(main)
        app.run(main, flags_parser=parse)


def _without_left_reads(unraisable: Any) -> None:
    """Reports unraisable errors, except those of Orbax when it reads a damaged checkpoint.

    Orbax raises the error of the first read that fails and abandons the other reads, each of which
    would print a traceback.
    """
    left = str(unraisable.exc_value) == 'Event loop is closed'
    if not left and not inspect.iscoroutine(unraisable.object):
        sys.__unraisablehook__(unraisable)

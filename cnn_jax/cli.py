"""The edge between a script and the library: flags, errors in one line, exit codes."""

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

from cnn_jax.errors import MissingPackageError, UserError, first_line
from cnn_jax.output import ends_with_its_reader
from cnn_jax.tables import printable

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: stopped and saved; the same command goes on
EXIT_NOT_FINITE = 76
EXIT_NOT_SAVED = 78  # 77 is training.processes.EXIT_PEER_GONE
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

flags.disclaim_key_flags()  # what is defined here is the script's, whose --help lists it

_DEFINE: dict[Any, Callable[..., Any]] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
}


def _excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if not isinstance(error, MissingPackageError):
        return sys.__excepthook__(kind, error, trace)
    return report(error)


# The imports of a script come before anything that could catch what they raise.
sys.excepthook = _excepthook


class _PathParser(flags.ArgumentParser):
    """A path of this machine: `~` is the user's home folder."""

    def parse(self, argument: str) -> str:
        if re.match('[a-z][a-z0-9+.-]*://', argument):
            raise ValueError(
                'object stores cannot be read or written; mount the store (gcsfuse, s3fs) and name '
                'the folder'
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
    """Defines a flag for a file or a folder; `~` is expanded, addresses are refused."""
    flags.DEFINE(_PathParser(), name, default, help_text, flag_values=values, required=required)


def define_flags(config_class: type, values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one flag for each field of a configuration class (see `config.option`)."""
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
    """Returns the configuration that the flags of `define_flags` describe.

    Raises:
        ValueError: a value that the configuration does not allow.
    """
    fields = dataclasses.fields(config_class)
    return config_class(**{field.name: getattr(values, field.name) for field in fields})


def define_process_flags() -> None:
    """Defines the flags that `join_processes` reads."""
    from cnn_jax.training import processes

    flags.DEFINE_string(
        'coordinator',
        '',
        'host:port of process 0 where several run together; auto: as Slurm, Open MPI or a TPU says',
    )
    flags.DEFINE_integer('num_processes', 0, 'how many run together', lower_bound=0)
    flags.DEFINE_integer('process_id', -1, 'which of them this is, from 0')
    flags.DEFINE_integer(
        'heartbeat_seconds',
        processes.HEARTBEAT_SECONDS,
        'after so long without a sign of life from one process the others end',
        lower_bound=1,
    )


def define_workdir_flag() -> None:
    define_path(
        'workdir', '', 'folder of the run (default: runs/<dataset>-<model>-<digest of the flags>)'
    )


def train(config_class: type) -> None:
    """Trains or resumes the run that the flags describe: the body of the training scripts."""
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
        lock = workdir.hold()
        if processes.is_first():
            workdir.describe(job.dataset)
    parameters = ', '.join(f'{name} {n:,}' for name, n in job.num_parameters.items())
    processes.say(
        f'training {config.model} (parameters: {parameters}) on {config.dataset} '
        f'({len(job.dataset.splits["train"]):,} examples), {job.total_steps} steps of '
        f'{config.batch_size}, on {job.devices}'
    )
    with lock, training_errors():
        state, result = training.train(job, workdir)
        if processes.is_first():
            _draw(job, workdir, state, result)
            workdir.finish(result)
            print(f'{task.summary(result)}, written to {workdir.path}')


def _draw(job: Any, workdir: Any, state: Any, result: Any) -> None:
    """Draws the pictures of a finished run; whatever fails there must not lose its result."""
    try:
        job.draw(workdir, state, result)
    except Exception as error:
        if os.environ.get('CNN_JAX_TRACEBACK'):
            traceback.print_exc()
        problem = _one_line(first_line(error))
        print(f'warning: not all pictures could be drawn ({problem})', file=sys.stderr)


def join_processes() -> None:
    """Joins the processes of the run where the script has flags for it; see `processes.join`."""
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
    """Defines the flags that say which weights of a run are read; see `checkpoint`."""
    flags.DEFINE_string('step', 'newest', 'which checkpoint: newest, best, or its step')
    flags.DEFINE_boolean('averaged', False, 'use the moving average of the weights (--ema)')


def checkpoint() -> int | str | None:
    """Returns what --step names: a step, 'best', or None for the newest.

    Raises:
        UserError: it is none of these.
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
    """The value of a list flag as integers.

    Raises:
        UserError: one is no integer or below `at_least`, or there is none.
    """
    texts = flags.FLAGS[name].value or ()
    try:
        numbers = tuple(map(int, texts))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < at_least:
        given = ','.join(texts)
        raise UserError(f'{name}={given!r}: must be integers of at least {at_least}: 1,2')
    return numbers


@contextlib.contextmanager
def bad_input() -> Iterator[None]:
    """Ends the program with one line and exit code 2 on a `UserError` or an OSError.

    Any other error is a bug, and keeps its traceback. So does every error where the environment
    variable CNN_JAX_TRACEBACK is set. To be put around the preparations, before anything long
    starts or anything is written.
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
    """Ends the program with one line and its exit code where `training.train` could not finish."""
    from cnn_jax import training

    try:
        yield
    except training.Interrupted as stop:
        fail(f'{stop}; run the same command again to resume', EXIT_INTERRUPTED)
    except training.NotFiniteError as error:
        fail(error, EXIT_NOT_FINITE)
    except (training.DamagedError, training.MismatchError) as error:
        fail(error)
    except OSError as error:
        if isinstance(error, training.SaveError) or error.errno in NO_ROOM:
            # At once: what else is open would be written at exit, and fail again.
            training.processes.leave_at_once(_one_line(error), EXIT_NOT_SAVED)
        raise


def fail(problem: Any, code: int = EXIT_BAD_INPUT) -> None:
    """Prints one line on stderr, then exits."""
    report(problem)
    sys.exit(code)


def report(problem: Any) -> None:
    """Prints one line on stderr."""
    print(f'error: {_one_line(problem)}', file=sys.stderr)


def _one_line(problem: Any) -> str:
    return printable(' '.join(str(problem).split())) or type(problem).__name__


def run(main: Callable[[Sequence[str]], int | None], *, takes_files: bool = False) -> None:
    """`absl.app.run` with one line and exit code 2 for a wrong flag or a stray argument."""

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
            stream.reconfigure(errors='backslashreplace')  # names of files may be any bytes
    sys.unraisablehook = _without_left_reads
    with ends_with_its_reader():
        if {'--help', '--helpshort', '-h', '--helpfull', '--helpxml'} & set(sys.argv[1:]):
            app.run(main)
        app.run(main, flags_parser=parse)


def _without_left_reads(unraisable: Any) -> None:
    """Says what nobody could catch, but for Orbax's reads of a damaged checkpoint.

    Orbax raises the first that fails and leaves the others, each of which would print a traceback.
    """
    left = str(unraisable.exc_value) == 'Event loop is closed'
    if not left and not inspect.iscoroutine(unraisable.object):
        sys.__unraisablehook__(unraisable)

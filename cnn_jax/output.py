"""Output of programs: atomically written files, and pipes that the reader has closed."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import IO, Any

EXIT_BROKEN_PIPE = 141  # as a shell reports SIGPIPE
EXIT_NOT_WRITTEN = 2


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """Ends the program quietly if the reader of its output has exited, as with `| head -1`.

    If the rest of the output cannot be written, as on a full disk, it ends with one line.
    """
    ended: SystemExit | None = None
    try:
        try:
            yield
        except SystemExit as end:  # absl's `app.run` ends so after a success, too
            ended = end
        finally:
            problem = _flush()
    except BrokenPipeError:
        _discard_output()
        sys.exit(EXIT_BROKEN_PIPE)
    if problem and not (ended and ended.code):
        print(f'error: {problem}', file=sys.stderr)
        sys.exit(EXIT_NOT_WRITTEN)
    if ended:
        raise ended


def _flush() -> OSError | None:
    """Writes what was printed, and returns why it cannot be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        return error
    return None


def _discard_output() -> None:
    """Lets the rest of the output disappear: at exit, Python would fail to write it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def write_whole(path: str | os.PathLike, mode: str = 'w', **options: Any) -> Iterator[IO]:
    """Writes a file atomically: it appears when it is complete, or not at all if the body fails.

    An existing path that is not a regular file (`/dev/stdout`, a named pipe) is written directly.
    A symbolic link is kept, and its target is replaced.

    Args:
        path: the file. Its folder is created if needed, and it gets the permissions of any new
            file.
        mode: 'w' or 'wb'.
        **options: passed to `open`.
    """
    path = pathlib.Path(path)
    if path.exists() and not path.is_file():
        with open(path, mode, **options) as file:
            yield file
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with open(temporary, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

"""Output of programs: files that are whole or absent, and pipes whose reader has gone."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import IO, Any

EXIT_BROKEN_PIPE = 141  # as shells report SIGPIPE


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """Ends the program quietly when the reader of its output has gone: `| head -1`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still in the buffer would fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)


@contextlib.contextmanager
def write_whole(path: str | os.PathLike, mode: str = 'w', **options: Any) -> Iterator[IO]:
    """Opens a file that gets its name when it is complete; nothing is left if the body fails.

    What exists and is no regular file (`/dev/stdout`, a named pipe) is written directly, and a
    symbolic link keeps pointing at its target.

    Args:
        path: the file. Its folder is made if needed, and it gets the permissions of any new file.
        mode: 'w' or 'wb'.
        **options: of `open`.
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

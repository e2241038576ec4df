"""Errors that a user can put right: a script shows them in one line, others with a traceback."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """A value, a flag or a file that is not right.

    The message names it, says what it is, and what would be right.
    """


class UserTypeError(UserError, TypeError):
    """A value of another type than is needed."""


class MissingPackageError(UserError, ImportError):
    """A package that is needed is not installed; the message has the command that installs it."""


def first_line(error: BaseException, limit: int = 300) -> str:
    """Returns the type of an error and the first line of its message."""
    line = next(iter(str(error).strip().splitlines()), '')
    return f'{type(error).__name__}: {line}'[:limit]


@contextlib.contextmanager
def optional_packages(extra: str) -> Iterator[None]:
    """Wraps imports of packages that only one extra of this package installs.

    Args:
        extra: the extra's name in `pyproject.toml`: 'train'.

    Raises:
        MissingPackageError: one of them is not installed; the message has the command for it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or '').partition('.')[0]
        if package in ('', 'cnn_jax'):
            raise
        raise MissingPackageError(
            f"{package} is not installed; install it with: pip install 'cnn_jax[{extra}]'"
        ) from error

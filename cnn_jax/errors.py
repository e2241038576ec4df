"""Errors that a user can fix; scripts print them in one line, and others with a traceback."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """An invalid value, flag or file.

    The message names the argument or file, its value, and what is valid.
    """


class UserTypeError(UserError, TypeError):
    """A value of the wrong type."""


class MissingPackageError(UserError, ImportError):
    """A required package is not installed; the message gives the command that installs it."""


def first_line(error: BaseException, limit: int = 300) -> str:
    """Returns the type of an error and the first line of its message."""
    line = next(iter(str(error).strip().splitlines()), '')
    return f'{type(error).__name__}: {line}'[:limit]


@contextlib.contextmanager
def optional_packages(extra: str) -> Iterator[None]:
    """Wraps imports of packages that only an extra of this package installs.

    Args:
        extra: the name of the extra in `pyproject.toml`, for example 'train'.

    Raises:
        MissingPackageError: a package is not installed; the message gives the install command.
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

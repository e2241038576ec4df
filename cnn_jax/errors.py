"""Errors that a user can put right: a script shows them in one line, others with a traceback."""


class UserError(ValueError):
    """A value, a flag or a file that is not right.

    The message names it, says what it is, and what would be right.
    """


class UserTypeError(UserError, TypeError):
    """A value of another type than is needed."""


class MissingPackageError(UserError, ImportError):
    """A package that is needed is not installed; the message has the command that installs it."""

"""Registries of named objects that users can extend: models, data sets, schedules and others."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from cnn_jax.errors import UserError

T = TypeVar('T')


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to values, to which `register` adds.

    Args:
        kind: what a value is, for messages; for example 'schedule'.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._values: dict[str, T] = {}

    def register(self, name: str, value: T | None = None, *, replace: bool = False) -> Any:
        """Adds a value under a name; without a value, returns a decorator that does.

        Args:
            name: the name to look up the value by.
            value: the value to add.
            replace: whether to replace a value of this name; for notebook cells that run again.

        Returns:
            The value, or the decorator.

        Raises:
            UserError: another value is registered under the name.
        """
        if value is None:
            return lambda decorated: self.register(name, decorated, replace=replace)
        if not replace and name in self._values and self._values[name] is not value:
            raise UserError(f'{self.kind} {name!r} is already registered; replace=True replaces it')
        self._values[name] = value
        return value

    def lookup(self, name: str) -> T:
        """Returns the value of a name.

        Raises:
            UserError: unknown name; the message lists the known names and the most similar one.
        """
        if name in self._values:
            return self._values[name]
        close = difflib.get_close_matches(name, self._values, n=1)
        hint = f'; did you mean {close[0]!r}?' if close else ''
        known = ', '.join(self._values)
        raise UserError(f'unknown {self.kind} {name!r}; must be one of {known}{hint}')

    def __getitem__(self, name: str) -> T:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

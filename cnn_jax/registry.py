"""Tables of named things that users can add to: models, data sets, schedules and the like."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from cnn_jax.errors import UserError

T = TypeVar('T')


class Registry(Mapping[str, T], Generic[T]):
    """A mapping from names to values that `register` adds to.

    Args:
        kind: what a value is, for messages: 'schedule'.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._values: dict[str, T] = {}

    def register(self, name: str, value: T | None = None, *, replace: bool = False) -> Any:
        """Adds a value under a name; without a value, a decorator that does.

        Args:
            name: by which the value is looked up.
            value: what to add.
            replace: whether the name may be taken: for a notebook cell that runs again.

        Returns:
            The value, or the decorator.

        Raises:
            UserError: the name is taken by another value.
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
            UserError: there is none; the message lists the names, and the most similar one.
        """
        if name in self._values:
            return self._values[name]
        close = difflib.get_close_matches(name, self._values, n=1)
        hint = f'; did you mean {close[0]!r}?' if close else ''
        raise UserError(f'unknown {self.kind} {name!r}; there are {", ".join(self._values)}{hint}')

    def __getitem__(self, name: str) -> T:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

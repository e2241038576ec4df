"""Counts the multiplications of a function."""

from collections.abc import Callable
from typing import Any

import numpy as np


class _Counted:
    """A number that counts products with other such numbers; those with constants are free."""

    def __init__(self, value: float, tally: list[int]):
        self.value, self.tally = value, tally

    def __add__(self, other: Any) -> '_Counted':
        return _Counted(self.value + float(other), self.tally)

    def __neg__(self) -> '_Counted':
        return _Counted(-self.value, self.tally)

    def __sub__(self, other: Any) -> '_Counted':
        return self + -float(other)

    def __rsub__(self, other: Any) -> '_Counted':
        return -self + other

    def __mul__(self, other: Any) -> '_Counted':
        self.tally[0] += isinstance(other, _Counted)
        return _Counted(self.value * float(other), self.tally)

    def __truediv__(self, other: Any) -> '_Counted':
        self.tally[0] += isinstance(other, _Counted)
        return _Counted(self.value / float(other), self.tally)

    def __float__(self) -> float:
        return float(self.value)

    __radd__, __rmul__ = __add__, __mul__


def with_multiplications(function: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> Any:
    """Calls a function of Python or NumPy arithmetic on arrays.

    Returns:
        (result, count): the result in float64, and how many numbers that depend on the arrays were
        multiplied with each other. None if the function returns nothing.
    """
    tally = [0]
    counted = [np.empty(array.shape, object) for array in arrays]
    for array, objects in zip(arrays, counted, strict=True):
        for at in np.ndindex(*array.shape):
            objects[at] = _Counted(float(array[at]), tally)
    result = function(*counted)
    if result is None or result is Ellipsis:
        return None
    return np.asarray(result, object).astype(np.float64), tally[0]

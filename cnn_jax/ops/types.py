"""Type aliases for the arguments of operations."""

from collections.abc import Mapping, Sequence
from typing import Literal

from jax.lax import PrecisionLike
from jax.typing import ArrayLike, DTypeLike

__all__ = [
    'ArrayLike',
    'DTypeLike',
    'Implementation',
    'MapName',
    'Padding',
    'PaddingMode',
    'PrecisionLike',
    'Size',
]

Size = int | Sequence[int]
Padding = int | str | Sequence[int | Sequence[int]]
PaddingMode = Literal['zeros', 'reflect', 'replicate', 'circular']
MapName = Literal['forward', 'input_grad', 'filter_grad']
Implementation = str | Sequence[str] | Mapping[str, str | Sequence[str] | None] | None

"""Helpers for the modules: expands arguments per axis and checks sizes."""

from collections.abc import Callable, Sequence

from cnn_jax.errors import UserError

Size = tuple[int, ...]


def per_axis(value: int | Sequence[int] | None, ndim: int) -> Size:
    """Returns one int per axis; an int is repeated for all `ndim` axes, and None means 1."""
    if value is None:
        value = 1
    return (value,) * ndim if isinstance(value, int) else tuple(value)


def check_features(in_features: int, out_features: int, groups: int) -> None:
    """Raises ValueError unless both channel counts are positive multiples of `groups`."""
    for name, value in (('in_features', in_features), ('out_features', out_features)):
        if groups < 1 or value < 1 or value % groups:
            raise UserError(
                f'{name}={value} must be a positive multiple of feature_group_count={groups}'
            )


def smallest_size(output_size: Callable[[Size], Size], ndim: int, limit: int = 4096) -> int | None:
    """Returns the smallest n for which `output_size((n, ...))` does not raise, or None."""
    for n in range(1, limit + 1):
        try:
            output_size((n,) * ndim)
            return n
        except UserError:
            continue
    return None

"""Parses durations such as '10epochs', '500steps' and '1e6examples'."""

import re

from cnn_jax.errors import UserError

_PATTERN = re.compile(r'\s*([0-9.]+(?:e[+-]?\d+)?)\s*(step|epoch|example)s?\s*', re.IGNORECASE)


def check(text: str) -> None:
    """Raises ValueError unless `text` is a duration."""
    _parse(text)


def to_steps(text: str, *, batch_size: int, steps_per_epoch: int) -> int:
    """Returns the duration in steps, rounded to an integer.

    Raises:
        ValueError: `text` is not a duration.
    """
    number, unit = _parse(text)
    per_unit = {'step': 1.0, 'epoch': steps_per_epoch, 'example': 1 / batch_size}
    return round(number * per_unit[unit])


def _parse(text: str) -> tuple[float, str]:
    found = _PATTERN.fullmatch(text)
    try:
        return float(found[1]), found[2].lower()
    except (TypeError, ValueError):
        raise UserError(
            f'{text!r} is not a duration: write 10epochs, 500steps or 1e6examples'
        ) from None

"""Divides data sets: parts of a split, and splits for testing and validation."""

import re
import warnings
from collections.abc import Mapping

import numpy as np

from cnn_jax.data.dataset import Split
from cnn_jax.data.order import epoch_order
from cnn_jax.errors import UserError

SPLITS = ('train', 'validation', 'test')
TEST_SHARE = 0.2  # fraction used as the test split if there is none


def part(what: str, text: str, size: int) -> slice:
    """Converts a string such as '[:10%]' to a slice of `size` examples; rounds like TFDS."""
    match = re.fullmatch(r'\[(?:(\d+)(%?))?:(?:(\d+)(%?))?\]', text)
    if not match:
        raise UserError(f'{what}: write a part of a split as train[:1000] or train[10%:20%]')
    ends = []
    for number, percent, default in ((match[1], match[2], 0), (match[3], match[4], size)):
        value = default if number is None else int(number)
        ends.append(round(value * size / 100) if percent and number is not None else value)
    if not 0 <= ends[0] < ends[1] <= size:
        raise UserError(f'{what}: {ends[0]} to {ends[1]} is not a valid range of {size} examples')
    return slice(*ends)


def with_test(name: str, splits: Mapping[str, Split]) -> dict[str, Split]:
    """Moves a fixed fifth of the training examples to a new test split."""
    warnings.warn(
        f'data set {name!r} has no test split: a fixed fifth of its training examples is used',
        stacklevel=3,
    )
    train = splits['train']
    held = max(1, round(TEST_SHARE * len(train)))
    order = epoch_order(0, 0, len(train))
    return {
        **splits,
        'train': train.take(np.sort(order[held:])),
        'test': train.take(np.sort(order[:held])),
    }


def hold_out(splits: Mapping[str, Split], share: float) -> Mapping[str, Split]:
    """Moves the fraction `share` of the training split to a new split 'validation'.

    If `share` is 0, the splits are returned unchanged.

    Raises:
        ValueError: a validation split already exists, or one of the two splits would be empty.
    """
    if share == 0:
        return splits
    if 'validation' in splits:
        raise UserError(
            f'validation={share}, but the data set has its own validation split; leave it at 0'
        )
    train = splits['train']
    held = round(share * len(train))
    if not 0 < held < len(train):
        raise UserError(
            f'validation={share} of {len(train)} examples is {held}; neither split may be empty'
        )
    order = epoch_order(0, 0, len(train))
    return {
        **splits,
        'train': train.take(np.sort(order[held:])),
        'validation': train.take(np.sort(order[:held])),
    }

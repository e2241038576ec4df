"""Loads a data set by name and options."""

import pathlib
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cnn_jax.data import catalog, prepared, readers
from cnn_jax.data.dataset import Dataset, Split, statistics
from cnn_jax.data.order import epoch_order
from cnn_jax.data.readers import Parts, Place
from cnn_jax.errors import UserError


def parse(spec: str) -> tuple[str, dict[str, str]]:
    """Parses 'name' or 'name:option=value,option=value' and returns (name, options).

    Raises:
        ValueError: an option has no value.
    """
    name, _, rest = spec.partition(':')
    if rest.startswith('['):  # 'name:[:10%]' does not name a split
        raise UserError(f'data set {spec!r}: name the split, as in {name}:train[:10%]')
    rest = re.sub(r'\b(train|test|validation)\[', r'\1=[', rest)  # TFDS's syntax for split slices
    pairs = [part.partition('=') for part in rest.split(',') if part]
    for option, equals, _ in pairs:
        if not equals:
            raise UserError(f'data set {spec!r}: {option!r} has no value; write {option}=...')
    return name, {option: value for option, _, value in pairs}


def _typed(name: str, read: Callable[..., Parts], options: Mapping[str, Any]) -> dict[str, Any]:
    """Converts each of `options` to the type of its default in the signature of `read`."""
    defaults = catalog.options(read)
    typed = {}
    for option, value in options.items():
        if option not in defaults:
            has = f'it has {", ".join(defaults)}' if defaults else 'it has none'
            raise UserError(f'data set {name} has no option {option!r}; {has}')
        kind = type(defaults[option])
        try:
            typed[option] = kind(value)
        except ValueError as error:
            raise UserError(
                f'data set {name}: {option}={value!r} is not {kind.__name__}'
            ) from error
    return typed


def _find(name: str, place: Place) -> tuple[str, Callable[..., Parts], dict[str, Any]]:
    """Returns the kind, reader and metadata of a registered or a prepared data set."""
    if name in catalog.CATALOG:
        entry = catalog.CATALOG[name]
        return entry.kind, entry.read, {'licence': entry.licence, 'source': entry.source}
    folder = pathlib.Path(place.data_dir or prepared.default_data_dir()).expanduser()
    if not name or prepared.find(name, folder) is None:
        raise UserError(
            f'unknown data set {name!r}; must be one of {", ".join(catalog.names())}, or a data '
            f'set that TFDS has prepared in {str(folder)!r}'
        )
    return *readers.any_prepared(place, name), {'source': f'TFDS, {name}'}


SPLITS = ('train', 'validation', 'test')
TEST_SHARE = 0.2  # fraction used as the test split if there is none

# Number of rows used for the statistics if the images are not in memory.
_SAMPLE = 4096


def _sample(inputs) -> np.ndarray:
    if isinstance(inputs, np.ndarray):
        return inputs
    return inputs[np.linspace(0, len(inputs) - 1, min(_SAMPLE, len(inputs))).astype(np.int64)]


def load(
    name: str,
    *,
    data_dir: str | pathlib.Path | None = None,
    manual_dir: str | pathlib.Path | None = None,
    download: bool = True,
    validation: float = 0.0,
    **options,
) -> Dataset:
    """Loads a data set into memory; a split with more than 1 GiB of images is read when needed.

    Args:
        name: one of `names()`, or the name of a data set prepared in `data_dir`. The name may
            contain options ('movie_reviews:fold=3'), slices of splits in TFDS's syntax
            ('mnist:train[:10%]'), or the version of a prepared data set ('mnist/3.0.1').
        data_dir: folder of data sets prepared by TFDS. None means TFDS_DATA_DIR, or
            ~/tensorflow_datasets if that is not set. A data set that is not there is prepared
            there first.
        manual_dir: folder of the original files, for preparing the data set without a network.
        download: whether a data set that is not prepared may be downloaded.
        validation: fraction of the training split that becomes the split 'validation', in [0, 1).
            The choice of examples is fixed; it does not depend on the training seed.
        **options: options of the data set, as in `name` (see docs/data.md).

    Raises:
        ValueError: a name or option is unknown, a folder is damaged, or a file is the wrong one.
        FileNotFoundError: a folder or file is missing.
        ConnectionError: the data set must be downloaded, but the download failed.
    """
    known, given = parse(name)
    if not 0 <= validation < 1:
        raise UserError(f'validation={validation}; it must be at least 0 and less than 1')
    place = Place(data_dir, manual_dir, download)
    kind, read, meta = _find(known, place)
    given |= options
    slices = {split: given.pop(split) for split in SPLITS if str(given.get(split)).startswith('[')}
    options = _typed(known, read, given)
    parts = read(place, **options)
    splits = dict(parts['splits'])
    for split, text in slices.items():
        if split not in splits:
            raise UserError(f'data set {name!r} has no split {split}')
        splits[split] = splits[split].take(_slice(f'{split}{text}', text, len(splits[split])))
    if 'test' not in splits:
        splits = _with_test(known, splits)
    splits = hold_out(splits, validation)
    mean, std = ((), ()) if kind == 'text' else statistics(_sample(splits['train'].inputs))
    return Dataset(
        name=name,
        kind=kind,
        splits=splits,
        class_names=parts['class_names'],
        mean=mean,
        std=std,
        meta={**meta, 'options': {**options, **slices}, **parts.get('meta', {})},
    )


def _slice(what: str, text: str, size: int) -> slice:
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


def _with_test(name: str, splits: Mapping[str, Split]) -> dict[str, Split]:
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

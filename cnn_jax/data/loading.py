"""Loads a data set by name and options."""

import dataclasses
import inspect
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from cnn_jax import plugins
from cnn_jax.data import catalog, prepared, readers
from cnn_jax.data.dataset import Dataset, statistics
from cnn_jax.data.own import as_dataset, sample
from cnn_jax.data.readers import Parts, Place
from cnn_jax.data.splits import SPLITS, hold_out, part, with_test
from cnn_jax.errors import UserError


def parse(spec: str) -> tuple[str, dict[str, str]]:
    """Parses 'name' or 'name:option=value,option=value' and returns (name, options).

    The name may also be that of an object in a file, 'path/file.py:object'.

    Raises:
        ValueError: an option has no value.
    """
    name, _, rest = spec.partition(':')
    if name.endswith('.py'):
        item, _, rest = rest.partition(':')
        name = f'{name}:{item}'
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
        name: one of `names()`, the name of a data set prepared in `data_dir`, or an object in a
            file, 'path/file.py:object' (see docs/own_data.md). The name may
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
    if plugins.is_object(known):
        return _from_file(name, known, place, given | options, validation)
    kind, read, meta = _find(known, place)
    given |= options
    slices = {split: given.pop(split) for split in SPLITS if str(given.get(split)).startswith('[')}
    options = _typed(known, read, given)
    parts = read(place, **options)
    splits = dict(parts['splits'])
    for split, text in slices.items():
        if split not in splits:
            raise UserError(f'data set {name!r} has no split {split}')
        splits[split] = splits[split].take(part(f'{split}{text}', text, len(splits[split])))
    if 'test' not in splits:
        splits = with_test(known, splits)
    splits = hold_out(splits, validation)
    mean, std = ((), ()) if kind == 'text' else statistics(sample(splits['train'].inputs))
    return Dataset(
        name=name,
        kind=kind,
        splits=splits,
        class_names=parts['class_names'],
        mean=mean,
        std=std,
        meta={**meta, 'options': {**options, **slices}, **parts.get('meta', {})},
        task=parts.get('task', 'classification'),
    )


def _from_file(
    spec: str, name: str, place: Place, options: Mapping[str, Any], validation: float
) -> Dataset:
    """Returns the data set that an object in a user's file is or makes."""
    made = plugins.load_object(name, 'dataset')
    if callable(made):
        arguments = [place] if 'place' in inspect.signature(made).parameters else []
        made = made(*arguments, **_typed(name, made, options))
    elif options:
        raise UserError(f'data set {name} has no option {", ".join(options)}: it is not a function')
    dataset = as_dataset(made, name=spec)
    splits = dataset.splits if 'test' in dataset.splits else with_test(spec, dataset.splits)
    return dataclasses.replace(dataset, name=spec, splits=hold_out(splits, validation))

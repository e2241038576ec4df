"""Reads a user's own files into the parts of a `Dataset`; see `readers` for what a reader is."""

import pathlib
from collections.abc import Sequence

import numpy as np

from cnn_jax.data import class_folders, readers
from cnn_jax.data import folder as folder_
from cnn_jax.data import text as text_module
from cnn_jax.data.order import epoch_order
from cnn_jax.data.readers import Parts, Place
from cnn_jax.errors import UserError


def own_folder(place: Place, name: str) -> pathlib.Path:
    """Returns the folder of the user's own files; raises UserError if `data_dir` is not given."""
    if place.data_dir is None:
        raise UserError(f'{name}: give the folder as data_dir')
    return pathlib.Path(place.data_dir).expanduser()


def read_image_folder(
    place: Place, *, size: int = 0, channels: int = 3, test: float = 0.0
) -> Parts:
    """Reads image files in <data_dir>/<class>/ or in <data_dir>/{train,test,val}/<class>/."""
    root = own_folder(place, 'image_folder')
    splits, classes = folder_.read_images(
        root, size=size, channels=channels, test=test, memory=readers.MEMORY_BYTES
    )
    return {'splits': splits, 'class_names': classes}


def read_audio_folder(
    place: Place, *, length: int = 16000, rate: int = 16000, test: float = 0.0
) -> Parts:
    """Reads WAV files in <data_dir>/<class>/ or in <data_dir>/{train,test,val}/<class>/."""
    for name, value in (('length', length), ('rate', rate)):
        if value < 1:
            raise UserError(f'{name}={value}; it must be at least 1')
    root = own_folder(place, 'audio_folder')
    splits, classes = folder_.read_recordings(root, length=length, rate=rate, test=test)
    return {'splits': splits, 'class_names': classes, 'meta': {'sample_rate': rate}}


def read_text_table(
    place: Place,
    *,
    text: str = 'text',
    label: str = 'label',
    test: float = 0.0,
    length: int = 0,
    min_count: int = 1,
) -> Parts:
    """Reads texts from <data_dir>/train.csv, test.csv and val.csv (or .tsv), with a header.

    Args:
        place: the folder.
        text: name of the column with the texts.
        label: name of the column with the classes.
        test: fraction of the training examples that becomes the test split if there is no test.csv.
            If it is 0, val.csv becomes the test split.
        length: see `text.make_splits`.
        min_count: see `text.make_splits`.
    """
    root = own_folder(place, 'text_table')
    if not root.is_dir():
        raise FileNotFoundError(f'data_dir={str(root)!r} is not a folder')
    found: dict[str, tuple[list[str], list[str]]] = {}
    for file in sorted(root.iterdir()):
        split = class_folders.SPLITS.get(file.stem.lower())
        if split and file.suffix.lower() in ('.csv', '.tsv'):
            found[split] = folder_.read_table(file, (text, label))
    if 'train' not in found:
        raise UserError(f'{root} has no train.csv or train.tsv')
    classes = tuple(sorted(set(found['train'][1])))
    texts = {split: each[0] for split, each in found.items()}
    labels = {split: _as_labels(root, split, each[1], classes) for split, each in found.items()}
    if 'test' not in found and 'validation' in found and not test:
        texts['test'], labels['test'] = texts.pop('validation'), labels.pop('validation')
    elif 'test' not in found:
        everything, classes_of = texts['train'], labels['train']
        held = round(test * len(everything))
        if not 0 < held < len(everything):
            raise UserError(
                f'{root} has no test.csv, and test={test} of its {len(everything)} texts is '
                f'{held}; give the fraction to use as the test split, such as text_table:test=0.2'
            )
        order = epoch_order(0, 0, len(everything))
        for split, rows in (('test', np.sort(order[:held])), ('train', np.sort(order[held:]))):
            texts[split] = [everything[row] for row in rows]
            labels[split] = classes_of[rows]
    splits, words = text_module.make_splits(
        'text_table', texts, labels, length=length, min_count=min_count
    )
    return {
        'splits': splits,
        'class_names': classes,
        'meta': text_module.meta(words, lower=True),
    }


def _as_labels(
    root: pathlib.Path, split: str, names: Sequence[str], classes: Sequence[str]
) -> np.ndarray:
    if unknown := sorted(set(names) - set(classes)):
        raise UserError(
            f'{root}: split {split} has the class {unknown[0]!r}, which the training split lacks'
        )
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[name] for name in names], np.int32)

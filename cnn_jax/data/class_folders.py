"""Finds the files of each split and class in a folder."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from cnn_jax.data.order import epoch_order
from cnn_jax.errors import UserError

Labelled = tuple[list[pathlib.Path], np.ndarray]

# Common names of split folders, in lower case -> name of the split.
SPLITS = {
    'train': 'train', 'training': 'train',
    'test': 'test', 'testing': 'test',
    'val': 'validation', 'valid': 'validation', 'validation': 'validation', 'dev': 'validation',
}  # fmt: skip
# Folders that archives, network drives and desktops create. Hidden files are skipped as well.
_NOT_DATA = ('__MACOSX', '@eaDir', '__pycache__', 'lost+found')


def read(
    root: pathlib.Path, suffixes: Sequence[str], *, test: float, advice: Mapping[str, str]
) -> tuple[dict[str, Labelled], tuple[str, ...]]:
    """Lists the labelled files of each split, and the class names.

    The files are in <root>/<split>/<class>/ or in <root>/<class>/. Symbolic links are followed. If
    there is a training split but no test split, then a share `test` of the training examples
    becomes the test split; if `test` is 0, the validation split becomes the test split. If there is
    no training split, an empty one is added, so that the other splits can be evaluated.

    Args:
        root: the folder.
        suffixes: lower-case suffixes of the files to list; other files are ignored.
        test: fraction of the training examples that becomes the test split; the choice of examples
            is fixed.
        advice: suffixes of unreadable files -> what the user should do with such files.

    Raises:
        FileNotFoundError: `root` is not a folder.
        UserError: the splits or classes are unclear or inconsistent, a class has no files, a file
            has a suffix in `advice`, or `test` leaves the training or test split empty.
    """
    if not root.is_dir():
        raise FileNotFoundError(f'data_dir={str(root)!r} is not a folder')
    splits = split_folders(root) or {'train': root}
    first = splits.get('train') or next(iter(splits.values()))
    classes = tuple(path.name for path in _folders(first))
    if not classes:
        raise UserError(f'{first} has no folders named after classes')
    found = {name: _labelled(path, classes, suffixes, advice) for name, path in splits.items()}
    if 'test' not in found and 'train' in found:
        if test or 'validation' not in found:
            files, labels = found['train']
            for name, rows in draw_test(len(files), test, root).items():
                found[name] = [files[row] for row in rows], labels[rows]
        else:
            found['test'] = found.pop('validation')
    return {'train': ([], np.zeros(0, np.int32))} | found, classes


def _folders(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders in a folder, without hidden folders and those in `_NOT_DATA`."""
    inner = (p for p in path.iterdir() if not p.name.startswith('.') and p.name not in _NOT_DATA)
    return sorted(p for p in inner if p.is_dir())


def split_folders(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the split folders: those that have the name of a split and contain folders."""
    folders = _folders(root)
    found: dict[str, pathlib.Path] = {}
    for path in folders:
        split = SPLITS.get(path.name.lower())
        if split is None or not _folders(path):
            continue
        if split in found:
            raise UserError(f'{found[split]} and {path} are both the split {split}; keep one')
        found[split] = path
    if found and (others := [path for path in folders if path not in found.values()]):
        raise UserError(
            f'{others[0]} is next to {next(iter(found.values())).name}/ but is not a split with '
            f'class folders (split names: {", ".join(SPLITS)}); move it elsewhere'
        )
    return found


def _labelled(
    path: pathlib.Path,
    classes: Sequence[str],
    suffixes: Sequence[str],
    advice: Mapping[str, str],
) -> Labelled:
    found: list[pathlib.Path] = []
    labels: list[int] = []
    for folder in _folders(path):
        if folder.name not in classes:
            raise UserError(
                f'{folder}: unknown class {folder.name!r}; must be one of {", ".join(classes)}'
            )
        here = []
        for file in files_below(folder):
            if what := advice.get(file.suffix.lower()):
                raise UserError(f'{file} cannot be read; {what}')
            if file.suffix.lower() in suffixes:
                here.append(file)
        if not here:
            raise UserError(f'class folder {folder} has no files ({", ".join(suffixes)})')
        found += here
        labels += [classes.index(folder.name)] * len(here)
    return found, np.array(labels, np.int32)


def files_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns all files below a folder, sorted; skips hidden files and folders in `_NOT_DATA`.

    Symbolic links are followed. Each folder is read only once, even if links form a cycle.
    """
    files, seen = [], set()
    for here, inner, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = [n for n in inner if not n.startswith('.') and n not in _NOT_DATA]
        files += [pathlib.Path(here, name) for name in names if not name.startswith('.')]
    return sorted(files)


def draw_test(count: int, share: float, root: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the rows of the training and test splits, where only the first has a folder.

    Args:
        count: number of examples.
        share: fraction of the examples that becomes the test split.
        root: the folder, for the message of the error.

    Raises:
        UserError: one of the two splits would be empty.
    """
    held = round(share * count)
    if not 0 < held < count:
        raise UserError(
            f'{root} has no test folder, and test={share} of its {count} files is {held}; '
            'give the fraction to use as the test split, such as test=0.2'
        )
    order = epoch_order(0, 0, count)
    return {'train': np.sort(order[held:]), 'test': np.sort(order[:held])}

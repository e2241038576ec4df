"""A folder of image files, one folder per class."""

import pathlib
from collections.abc import Sequence

import numpy as np

from cnn_jax.data import images
from cnn_jax.data.dataset import Split
from cnn_jax.data.order import epoch_order
from cnn_jax.data.stored import StoredImages
from cnn_jax.errors import UserError

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.gif', '.webp', '.ppm', '.pgm', '.tif', '.tiff')
_SPLITS = {'train': 'train', 'test': 'test', 'val': 'validation', 'validation': 'validation'}


def read(
    root: pathlib.Path, *, size: int, channels: int, test: float, memory: int
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """The splits of <root>/{train,test,val}/<class>/*, or of <root>/<class>/*; and the classes.

    Args:
        root: the folder.
        size: both sides that images are made to, see `images.decode`; 0: they all have one size.
        channels: 1 or 3.
        test: the share of the examples, drawn once and for all, that is the test split of a folder
            without one.
        memory: bytes of images up to which a split is held in memory.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no images; images of several sizes with size=0; a class that training has not.
    """
    if not root.is_dir():
        raise FileNotFoundError(f'data_dir={str(root)!r} is not a folder')
    if channels not in (1, 3):
        raise UserError(f'channels={channels}; it is 1 or 3')
    named = {_SPLITS[p.name]: p for p in root.iterdir() if p.is_dir() and p.name in _SPLITS}
    if 'train' not in named:
        named = {'train': root}
    classes = tuple(sorted(p.name for p in named['train'].iterdir() if p.is_dir()))
    files = {name: _files(path, classes) for name, path in named.items()}
    if 'test' not in files:
        files = _draw_test(files, test, root)
    return {
        name: _split(*found, size=size, channels=channels, memory=memory)
        for name, found in files.items()
    }, classes


def _files(path: pathlib.Path, classes: Sequence[str]) -> tuple[list[pathlib.Path], np.ndarray]:
    found, labels = [], []
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        if folder.name not in classes:
            raise UserError(f'{folder}: training has no such class; it has {", ".join(classes)}')
        here = sorted(p for p in folder.rglob('*') if p.suffix.lower() in SUFFIXES)
        found += here
        labels += [classes.index(folder.name)] * len(here)
    if not found:
        raise UserError(f'{path} has no images in folders named after their classes')
    return found, np.array(labels, np.int32)


def _draw_test(files, share: float, root: pathlib.Path):
    found, labels = files['train']
    held = round(share * len(found))
    if not 0 < held < len(found):
        raise UserError(
            f'{root} has no folder test, and test={share} of its {len(found)} images is {held}; '
            'give the share that is to be the test split, as in image_folder:test=0.2'
        )
    order = epoch_order(0, 0, len(found))
    rows = {'train': np.sort(order[held:]), 'test': np.sort(order[:held])}
    return {
        **files,
        **{name: ([found[i] for i in chosen], labels[chosen]) for name, chosen in rows.items()},
    }


def _split(found: list[pathlib.Path], labels: np.ndarray, *, size, channels, memory) -> Split:
    def decode(path: pathlib.Path) -> np.ndarray:
        return images.decode(path, channels, size)

    stored = StoredImages(lambda rows: [found[row] for row in rows], decode, np.arange(len(found)))
    if size and stored.nbytes > memory:
        return Split(stored, labels)
    array = np.empty(stored.shape, np.uint8)
    for i, path in enumerate(found):
        image = decode(path)
        if image.shape != array.shape[1:]:
            raise UserError(
                f'{path} has shape {image.shape}, {found[0].name} {array.shape[1:]}; give the '
                'option size, as in image_folder:size=64, to make images one size'
            )
        array[i] = image
    return Split(array, labels)

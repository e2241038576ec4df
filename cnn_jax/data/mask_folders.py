"""Reads folders of images with a mask for each: <root>/<split>/{images,masks}/NAME.png."""

import pathlib
from collections.abc import Sequence

import numpy as np

from cnn_jax.data import class_folders, folder, images, masks, own_files, readers
from cnn_jax.data.dataset import Split
from cnn_jax.data.readers import Parts, Place
from cnn_jax.data.stored import StoredImages
from cnn_jax.data.text import read_lines
from cnn_jax.errors import UserError

# JPEG changes labels.
MASKS = ('.png', '.bmp', '.gif', '.tif', '.tiff')
CLASSES = 'classes.txt'

Pair = tuple[pathlib.Path, pathlib.Path]


def read_mask_folder(place: Place, *, size: int = 0, channels: int = 3, test: float = 0.0) -> Parts:
    """Reads images and masks in <data_dir>/{images,masks}/ or <data_dir>/<split>/{images,masks}/.

    A mask has the name of its image, with any suffix. The masks of all splits are held in memory,
    one byte per pixel. The class names are the lines of <data_dir>/classes.txt, if there is one;
    otherwise '0', '1', ... up to the largest label.

    Args:
        place: the folder.
        size: height and width of the images and masks (see `masks.decode`); 0 if all images already
            have the same size.
        channels: 1 or 3.
        test: see `class_folders.read`.

    Raises:
        FileNotFoundError: `data_dir` is not a folder.
        UserError: an image or a mask has no partner, or another size than its partner; a label is
            outside the classes; or the splits are unclear (see `class_folders.read`).
    """
    root = own_files.own_folder(place, 'mask_folder')
    if channels not in (1, 3):
        raise UserError(f'channels={channels}; it must be 1 or 3')
    if size < 0:
        raise UserError(f'size={size}; it must be positive, or 0 for the size of the files')
    found = _pairs_of_splits(root, test)
    splits = {name: _read(pairs, size, channels) for name, pairs in found.items()}
    names = _class_names(root, splits)
    for name, pairs in found.items():
        for (_, file), mask in zip(pairs, splits[name].labels, strict=True):
            masks.check(mask, len(names), str(file))
    if 'train' not in splits:  # other splits can still be evaluated
        like = next(iter(splits.values()))
        nothing = np.zeros((0, *like.inputs.shape[1:]), np.uint8)
        splits = {'train': Split(nothing, like.labels[:0]), **splits}
    return {'splits': splits, 'class_names': names, 'task': 'segmentation'}


def _pairs_of_splits(root: pathlib.Path, test: float) -> dict[str, list[Pair]]:
    if not root.is_dir():
        raise FileNotFoundError(f'data_dir={str(root)!r} is not a folder')
    folders = class_folders.split_folders(root) or {'train': root}
    found = {name: _pairs(path) for name, path in folders.items()}
    if 'test' not in found and 'train' in found:
        if test or 'validation' not in found:
            pairs = found['train']
            rows = class_folders.draw_test(len(pairs), test, root)
            found |= {name: [pairs[row] for row in chosen] for name, chosen in rows.items()}
        else:
            found['test'] = found.pop('validation')
    return found


def _pairs(path: pathlib.Path) -> list[Pair]:
    """Returns the images below path/images and the masks below path/masks, by name."""
    of_images = _by_name(path / 'images', folder.IMAGES)
    of_masks = _by_name(path / 'masks', MASKS)
    for mine, others, where, what in (
        (of_images, of_masks, 'masks', 'mask'),
        (of_masks, of_images, 'images', 'image'),
    ):
        if alone := [name for name in mine if name not in others]:
            more = f' (and {len(alone) - 1} more)' if len(alone) > 1 else ''
            raise UserError(
                f'{mine[alone[0]]} has no {what} of the same name in {path / where}{more}'
            )
    return [(of_images[name], of_masks[name]) for name in sorted(of_images)]


def _by_name(path: pathlib.Path, suffixes: Sequence[str]) -> dict[str, pathlib.Path]:
    """Returns {path below `path`, without the suffix: file}."""
    if not path.is_dir():
        raise UserError(f'{path} is missing; a folder of masks has images/ and masks/')
    found: dict[str, pathlib.Path] = {}
    for file in class_folders.files_below(path):
        if advice := folder.NOT_IMAGES.get(file.suffix.lower()):
            raise UserError(f'{file} cannot be read; {advice}')
        if file.suffix.lower() not in suffixes:
            continue
        name = str(file.relative_to(path).with_suffix(''))
        if name in found:
            raise UserError(f'{found[name]} and {file} have the same name; keep one')
        found[name] = file
    if not found:
        raise UserError(f'{path} has no files ({", ".join(suffixes)})')
    return found


def _read(pairs: Sequence[Pair], size: int, channels: int) -> Split:
    for image, mask in pairs:
        sizes = images.size_of(image), images.size_of(mask)
        if sizes[0] != sizes[1]:
            raise UserError(
                f'{mask} has {_by(sizes[1])} pixels, but its image {image.name} has '
                f'{_by(sizes[0])}; they must have the same size'
            )
    first = images.decode(pairs[0][0], channels, size).shape
    labels = np.empty((len(pairs), *first[:2]), np.uint8)
    for row, (image, mask) in zip(labels, pairs, strict=True):
        if not size and images.size_of(image) != first[:2]:
            raise UserError(
                f'{image} has {_by(images.size_of(image))} pixels, but {pairs[0][0].name} has '
                f'{_by(first[:2])}; resize all with the option size, such as mask_folder:size=64'
            )
        row[:] = masks.decode(mask, size)
    stored = StoredImages(
        lambda rows: [pairs[row][0] for row in rows],
        lambda file: images.decode(file, channels, size),
        np.arange(len(pairs)),
    )
    if size and stored.nbytes > readers.MEMORY_BYTES:
        return Split(stored, labels)
    return Split(stored[:], labels)


def _by(size: Sequence[int]) -> str:
    return f'{size[0]} x {size[1]}'


def _class_names(root: pathlib.Path, splits: dict[str, Split]) -> tuple[str, ...]:
    file = root / CLASSES
    if not file.is_file():
        return masks.names_of(np.concatenate([s.labels for s in splits.values()]), str(root))
    names = tuple(filter(None, map(str.strip, read_lines(file))))
    if not 0 < len(names) <= masks.IGNORE:
        raise UserError(f'{file} has {len(names)} lines; it must have 1 to {masks.IGNORE} classes')
    return names

"""Reads class folders of image files or recordings, and tables of texts."""

import csv
import io
import pathlib

import numpy as np

from cnn_jax.data import audio, class_folders, images, text
from cnn_jax.data.dataset import Split
from cnn_jax.data.stored import StoredImages
from cnn_jax.errors import UserError

IMAGES = (
    '.png', '.jpg', '.jpeg', '.jfif', '.bmp', '.gif', '.webp', '.ppm', '.pgm', '.tif', '.tiff',
)  # fmt: skip
_CONVERT = 'convert it to JPEG or PNG first (a phone can be set to store JPEG)'
NOT_IMAGES = {'.heic': _CONVERT, '.heif': _CONVERT}


def read_images(
    root: pathlib.Path, *, size: int, channels: int, test: float, memory: int
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Returns the splits and class names of a folder of images (see `class_folders.read`).

    Args:
        root: the folder.
        size: height and width of the decoded images (see `images.decode`); 0 if all images already
            have the same size.
        channels: 1 or 3.
        test: see `class_folders.read`.
        memory: largest size in bytes of a split that is held in memory; larger splits are read from
            disk when needed if `size` is not 0.

    Raises:
        FileNotFoundError: `root` is not a folder.
        UserError: `size` is 0 and the sizes of the images differ, or `channels` is not 1 or 3; see
            also `class_folders.read`.
    """
    if channels not in (1, 3):
        raise UserError(f'channels={channels}; it must be 1 or 3')
    files, classes = class_folders.read(root, IMAGES, test=test, advice=NOT_IMAGES)
    options = {'size': size, 'channels': channels, 'memory': memory}
    splits = {name: _images(*found, **options) for name, found in files.items() if len(found[0])}
    return _with_training(splits), classes


def read_recordings(
    root: pathlib.Path, *, length: int, rate: int, test: float
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Returns the splits and class names of a folder of WAV files (see `class_folders.read`).

    Args:
        root: the folder.
        length: number of samples to keep; shorter recordings are padded with zeros.
        rate: sample rate in samples per second that every recording must have.
        test: see `class_folders.read`.
    """
    files, classes = class_folders.read(root, ('.wav',), test=test, advice={})
    splits = {}
    for name, (found, labels) in files.items():
        waveforms = np.zeros((len(found), length, 1), np.int16)
        for row, file in zip(waveforms, found, strict=True):
            row[:, 0] = audio.fit_length(audio.read_wav(file, rate), length)
        splits[name] = Split(waveforms, labels)
    return splits, classes


def read_table(file: pathlib.Path, columns: tuple[str, str]) -> tuple[list[str], list[str]]:
    """Returns the texts and their class names from a CSV or TSV file with a header.

    Raises:
        UserError: a column is missing, or a row and the header differ in their number of cells.
    """
    content = '\n'.join(text.read_lines(file))
    delimiter = '\t' if file.suffix.lower() == '.tsv' else ','
    rows = list(csv.reader(io.StringIO(content, newline=''), delimiter=delimiter, strict=True))
    header = rows[0] if rows else []
    if lacking := [name for name in columns if name not in header]:
        raise UserError(
            f'{file} has no column {lacking[0]!r}; it has {", ".join(header) or "none"}'
        )
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise UserError(f'{file}, row {number}: {len(row)} cells; the header has {len(header)}')
    places = [header.index(name) for name in columns]
    texts, classes = ([row[place] for row in rows[1:]] for place in places)
    return texts, classes


def _with_training(splits: dict[str, Split]) -> dict[str, Split]:
    """Adds an empty training split if there is none, so that other splits can be evaluated."""
    if 'train' in splits:
        return splits
    like = next(iter(splits.values()))
    inputs = np.zeros((0, *like.inputs.shape[1:]), like.inputs.dtype)
    return {'train': Split(inputs, np.zeros(0, np.int32)), **splits}


def _images(found: list[pathlib.Path], labels: np.ndarray, *, size, channels, memory) -> Split:
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
                f'{path} has shape {image.shape}, but {found[0].name} has {array.shape[1:]}; give '
                'the option size, such as image_folder:size=64, to resize all images'
            )
        array[i] = image
    return Split(array, labels)

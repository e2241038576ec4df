"""Classifies files, which are read in the same way as the data set of the run."""

import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cnn_jax.data import Dataset, audio, class_folders, folder, images, text
from cnn_jax.errors import UserError
from cnn_jax.training.saved import SavedRun

BATCH = 64
SUFFIXES = {'image': folder.IMAGES, 'audio': ('.wav',), 'text': ('.txt',)}

Named = tuple[str, np.ndarray | UserError]  # name, and the input or its error


class Inputs(NamedTuple):
    """The result of `read_inputs`.

    Attributes:
        names: the name of each row: the file, and for texts also the line number.
        rows: raw inputs (N, ...) in the format of the data set.
        problems: one line for each input that could not be read.
    """

    names: list[str]
    rows: np.ndarray
    problems: list[str]


def classify(
    dataset: Dataset, predict: Callable[[np.ndarray], np.ndarray], files: Sequence[str]
) -> Iterator[Named]:
    """Yields the name and the prediction of each input in `files`; see `Objective.predictions`.

    An input that cannot be read has its error instead of a prediction. Inputs are read and
    classified lazily, in batches.

    Args:
        dataset: the data set of the training.
        predict: raw inputs (N, ...) -> predictions (N, ...), such as `predictor` returns.
        files: see `read_each`.
    """
    inputs = read_each(dataset, files)
    while batch := list(itertools.islice(inputs, BATCH)):
        rows = [value for _, value in batch if not isinstance(value, UserError)]
        found = iter(predict(np.stack(rows)) if rows else ())
        for name, value in batch:
            yield name, value if isinstance(value, UserError) else next(found)


def write_masks(
    folder: str | pathlib.Path, found: Iterable[Named], num_classes: int
) -> tuple[int, list[UserError]]:
    """Writes each mask that `classify` yields as <folder>/<name of the image>.png.

    See `viz.masks.save_mask` for the file.

    Returns:
        The number of inputs, and one error for each of which no mask was written: it cannot be
        read, or an earlier one has the same name.

    Raises:
        UserError: `folder` is empty or a file.
    """
    from cnn_jax.viz import masks  # here, because Matplotlib takes 0.3 s to import

    if not folder or pathlib.Path(folder).is_file():
        raise UserError(f'output={str(folder)!r}; it must be a folder for the masks')
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    count, errors = 0, []
    image_of: dict[str, str] = {}
    for name, value in found:
        count += 1
        stem = pathlib.Path(name).stem
        if isinstance(value, UserError):
            errors.append(value)
        elif stem in image_of:
            errors.append(UserError(f'{name}: {stem}.png is the mask of {image_of[stem]}'))
        else:
            image_of[stem] = name
            masks.save_mask(value, num_classes, pathlib.Path(folder, f'{stem}.png'))
    return count, errors


def read_inputs(dataset: Dataset, files: Sequence[str]) -> Inputs:
    """Returns all inputs of `read_each` in one array.

    Raises:
        UserError: no input could be read; the message is the first problem.
    """
    names, rows, problems = [], [], []
    for name, value in read_each(dataset, files):
        if isinstance(value, UserError):
            problems.append(str(value))
        else:
            names.append(name)
            rows.append(value)
    if not rows:
        raise UserError(problems[0] if problems else 'nothing to predict: the files are empty')
    return Inputs(names, np.stack(rows), problems)


def read_each(dataset: Dataset, files: Iterable[str]) -> Iterator[Named]:
    """Reads image, audio or text files in the same way as the data set of the run.

    Images are cropped about their centres to the shape of the data set's, and resized. Recordings
    are cut or padded with silence. Every line of a text file is one input. Words that are not in
    the vocabulary become the unknown word, and a line without words becomes one unknown word.
    Lines end with LF or CR LF.

    Args:
        dataset: the data set of the run.
        files: files and folders. A folder stands for all files of the right kind below it, except
            hidden files.

    Yields:
        For each image, recording or line, in order: the name (the file, and for a line also its
        number), and the input or the error that explains why it cannot be read.
    """
    read = {'image': _image, 'audio': _sound, 'text': _lines}[dataset.kind]
    for file in files:
        path = pathlib.Path(file).expanduser()
        if not path.is_dir():
            yield from read(dataset, str(path))
            continue
        inner = [str(p) for p in class_folders.files_below(path) if _counts(p, dataset.kind)]
        if not inner:
            listed = ', '.join(SUFFIXES[dataset.kind])
            yield str(path), UserError(f'{path}: the folder has no files ({listed})')
        for each in inner:
            yield from read(dataset, each)


def _counts(path: pathlib.Path, kind: str) -> bool:
    suffix = path.suffix.lower()
    return suffix in SUFFIXES[kind] or (kind == 'image' and suffix in folder.NOT_IMAGES)


def predictions(run: SavedRun, inputs: np.ndarray) -> np.ndarray:
    """Returns the predictions for raw inputs, such as class probabilities, float32 (N, classes)."""
    return predictor(run)(inputs)


def predictor(run: SavedRun) -> Callable[[np.ndarray], np.ndarray]:
    """Returns `predictions` for this run as a function that is compiled once."""

    @jax.jit
    def predict(params, model_state, part):
        outputs = run.net.predict(params, model_state, run.dataset.normalize(part))
        return run.objective.predictions(outputs)

    params, model_state = jax.device_get((run.params, run.model_state))
    return lambda inputs: in_batches(lambda part: predict(params, model_state, part), inputs)


def in_batches(apply: Callable[[np.ndarray], Any], inputs: np.ndarray) -> Any:
    """Returns `apply(inputs)`, computed in batches of equal size; needs at least one example.

    `apply` returns an array (N, ...) or a tuple of such arrays.
    """
    parts = []
    for start in range(0, len(inputs), BATCH):
        part = inputs[start : start + BATCH]
        filled = np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), 0)])
        rows = slice(len(part))
        parts.append(jax.tree.map(lambda a: a[rows], jax.device_get(apply(filled))))  # noqa: B023
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _attempt(file: str, read: Callable[[], np.ndarray]) -> Named:
    try:
        return file, read()
    except UserError as error:
        return file, error
    except OSError as error:
        return file, UserError(f'{file}: {error.strerror or error}')


def _image(dataset: Dataset, file: str) -> Iterator[Named]:
    height, width, channels = dataset.input_shape

    def read() -> np.ndarray:
        if advice := folder.NOT_IMAGES.get(pathlib.Path(file).suffix.lower()):
            raise UserError(f'{file} cannot be read; {advice}')
        return images.decode(file, channels, (height, width))

    yield _attempt(file, read)


def _sound(dataset: Dataset, file: str) -> Iterator[Named]:
    def read() -> np.ndarray:
        if 'sample_rate' not in dataset.meta:
            raise UserError(
                f'{dataset.name} has no sample rate: its signals cannot be read from files'
            )
        waveform = audio.read_wav(file, dataset.meta['sample_rate'])
        return audio.fit_length(waveform, dataset.input_shape[0])[:, None]

    yield _attempt(file, read)


def _lines(dataset: Dataset, file: str) -> Iterator[Named]:
    meta, (length,) = dataset.meta, dataset.input_shape
    words, margin = meta['vocabulary'], meta['margin']
    try:
        lines = text.read_lines(file, errors='surrogateescape')
    except (UserError, OSError) as error:
        yield file, UserError(f'{file}: {getattr(error, "strerror", None) or error}')
        return
    tokens = [text.tokenize(line, meta['lower']) or [text.UNKNOWN] for line in lines]
    rows = text.encode(tokens, words, length - 2 * margin, margin)
    for number, (line, row) in enumerate(zip(lines, rows, strict=True), start=1):
        name = f'{file}:{number}'
        is_text = line.isascii() or not any('\udc80' <= c <= '\udcff' for c in line)
        yield name, row if is_text else UserError(f'{name}: not UTF-8 text')

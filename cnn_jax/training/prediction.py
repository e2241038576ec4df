"""Files to classes: inputs read as the data set of a run reads its own."""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cnn_jax.data import Dataset, audio, images, text
from cnn_jax.errors import UserError
from cnn_jax.training.saved import SavedRun

BATCH = 64


class Inputs(NamedTuple):
    """What `read_inputs` found.

    Attributes:
        names: one per row: the file, or for texts the file and the number of the line.
        rows: raw inputs as the data set has them, (N, ...).
        problems: one line for each file that could not be read.
    """

    names: list[str]
    rows: np.ndarray
    problems: list[str]


def read_inputs(dataset: Dataset, files: Sequence[str]) -> Inputs:
    """Reads files as the data set of a run reads its own: an image or a recording each, or lines.

    Images are cropped to a square and resized to the size of the data set; recordings are cut or
    filled with silence; words that are not in the vocabulary become the unknown word. Every line of
    a text file is a row, also an empty one. A folder stands for all files below it, hidden ones
    left out. A file that cannot be read does not concern the others.

    Raises:
        UserError: no file could be read; the message is the first problem.
    """
    read = {'image': _image, 'audio': _sound, 'text': _lines}[dataset.kind]
    names, rows, problems = [], [], []
    for file in _expanded(files):
        try:
            for name, row in read(dataset, file):
                names.append(name)
                rows.append(row)
        except (UserError, OSError) as error:
            problems.append(str(error))
    if not rows:
        raise UserError(problems[0] if problems else 'nothing to predict: the files are empty')
    return Inputs(names, np.stack(rows), problems)


def _expanded(files: Sequence[str]) -> Iterator[str]:
    for file in files:
        path = pathlib.Path(file).expanduser()
        if not path.is_dir():
            yield str(path)
            continue
        for inner in sorted(path.rglob('*')):
            is_hidden = any(part.startswith('.') for part in inner.relative_to(path).parts)
            if inner.is_file() and not is_hidden:
                yield str(inner)


def probabilities(run: SavedRun, inputs: np.ndarray) -> np.ndarray:
    """Softmax of the logits for raw inputs: float32 (N, classes)."""
    return predictor(run)(inputs)


def predictor(run: SavedRun) -> Callable[[np.ndarray], np.ndarray]:
    """`probabilities` of this run, compiled once for all calls."""

    @jax.jit
    def predict(params, model_state, part):
        return jax.nn.softmax(run.net.predict(params, model_state, run.dataset.normalize(part)))

    params, model_state = jax.device_get((run.params, run.model_state))
    return lambda inputs: in_batches(lambda part: predict(params, model_state, part), inputs)


def in_batches(apply: Callable[[np.ndarray], Any], inputs: np.ndarray) -> np.ndarray:
    """Rows of `apply(inputs)`, computed by batches of one size, of at least one example."""
    parts = []
    for start in range(0, len(inputs), BATCH):
        part = inputs[start : start + BATCH]
        filled = np.concatenate([part, np.repeat(part[-1:], BATCH - len(part), 0)])
        parts.append(jax.device_get(apply(filled))[: len(part)])
    return np.concatenate(parts)


def _image(dataset: Dataset, file: str) -> Iterator[tuple[str, np.ndarray]]:
    height, width, channels = dataset.input_shape
    if height != width:
        raise UserError(f'{dataset.name} has images of {height} x {width}: only squares are read')
    yield file, images.decode(file, channels, height)


def _sound(dataset: Dataset, file: str) -> Iterator[tuple[str, np.ndarray]]:
    if 'sample_rate' not in dataset.meta:
        raise UserError(f'{dataset.name} has signals that no sound file holds')
    waveform = audio.read_wav(file, dataset.meta['sample_rate'])
    yield file, audio.fit_length(waveform, dataset.input_shape[0])[:, None]


def _lines(dataset: Dataset, file: str) -> Iterator[tuple[str, np.ndarray]]:
    meta, (length,) = dataset.meta, dataset.input_shape
    words, margin = meta['vocabulary'], meta['margin']
    for number, line in enumerate(text.read_lines(file), start=1):
        tokens = text.tokenize(line, meta['lower']) or [text.UNKNOWN]
        yield f'{file}:{number}', text.encode([tokens], words, length - 2 * margin, margin)[0]

"""Files to classes: inputs read as the data set of a run reads its own."""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cnn_jax.data import Dataset, audio, images, text
from cnn_jax.errors import UserError
from cnn_jax.training.saved import SavedRun

BATCH = 64


def read_inputs(dataset: Dataset, files: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names and raw inputs of files: an image or a recording each, or one text per line.

    Images are cropped to a square and resized to the size of the data set; recordings are cut or
    filled with silence; words that are not in the vocabulary become the unknown word.

    Raises:
        ValueError: a file that cannot be read as what the data set is made of.
        OSError: a file that is not there.
    """
    read = {'image': _image, 'audio': _sound, 'text': _lines}[dataset.kind]
    found = [item for file in files for item in read(dataset, file)]
    if not found:
        raise UserError('nothing to predict: the files hold no text')
    names, inputs = zip(*found, strict=True)
    return list(names), np.stack(inputs)


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
    for number, line in enumerate(pathlib.Path(file).read_text().splitlines(), start=1):
        if tokens := text.tokenize(line, meta['lower']):
            yield f'{file}:{number}', text.encode([tokens], words, length - 2 * margin, margin)[0]

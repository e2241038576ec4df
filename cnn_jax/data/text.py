"""Converts texts to token ids with the tokenisation and padding of Kim 2014.

Yoon Kim, "Convolutional Neural Networks for Sentence Classification", arXiv:1408.5882. The
rules are those of the published program (github.com/yoonkim/CNN_sentence). The vocabulary is built
from the training split only.
"""

import collections
import pathlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.data.dataset import Split
from cnn_jax.errors import UserError

PAD, UNKNOWN = '<pad>', '<unknown>'
MARGIN = 4  # padding tokens on each side of a text, so that each word meets every window position
_NOT_KEPT = re.compile(r"[^A-Za-z0-9(),!?'`]")
_SUFFIX = re.compile(r"n't|'(?:s|ve|re|d|ll)")
_PUNCTUATION = re.compile(r'[,!()?]')


def tokenize(text: str, lower: bool = True) -> list[str]:
    """Splits a text into tokens with the rules of Kim 2014.

    Only letters, digits and ( ) , ! ? ' ` are kept. A new token begins at "n't", "'s", "'ve",
    "'re", "'d" and "'ll". The punctuation marks ( ) , ! ? are separate tokens.

    Example: `tokenize("It's good, isn't it?")` gives it 's good , is n't it ?
    """
    text = _NOT_KEPT.sub(' ', text)
    text = _SUFFIX.sub(r' \g<0>', text)
    text = _PUNCTUATION.sub(r' \g<0> ', text)
    return (text.lower() if lower else text).split()


def read_lines(file: str | pathlib.Path, errors: str = 'strict') -> list[str]:
    """Returns the lines of a UTF-8 file. Only LF and CR LF count as line ends.

    Args:
        file: the file.
        errors: how to handle bytes that are not UTF-8, as in `bytes.decode`.

    Raises:
        UserError: the file is not UTF-8.
        OSError: the file cannot be read.
    """
    try:
        content = pathlib.Path(file).read_bytes().decode('utf-8-sig', errors)
    except UnicodeDecodeError as error:
        raise UserError(f'{file}: not UTF-8 text ({error})') from error
    lines = content.split('\n')
    if not lines[-1]:  # a final line feed does not begin a new line
        del lines[-1]
    return [line.removesuffix('\r') for line in lines]


def vocabulary(texts: Iterable[Sequence[str]], min_count: int = 1) -> tuple[str, ...]:
    """Returns `PAD` (id 0), `UNKNOWN` (id 1) and the words of the texts by decreasing frequency.

    Words of equal frequency are in alphabetical order, so the same texts give the same ids.

    Args:
        texts: tokenised texts of the training split only.
        min_count: words that occur fewer times are left out, and are therefore read as `UNKNOWN`.
    """
    counts = collections.Counter(word for text in texts for word in text)
    words = sorted((-count, word) for word, count in counts.items() if count >= min_count)
    return (PAD, UNKNOWN, *(word for _, word in words))


def meta(words: Sequence[str], lower: bool) -> dict[str, Any]:
    """Returns what a run stores to encode new texts like `make_splits` with the default margin."""
    return {'vocabulary': words, 'lower': lower, 'margin': MARGIN}


def encode(
    texts: Sequence[Sequence[str]], words: Sequence[str], length: int, margin: int = 0
) -> np.ndarray:
    """Returns token ids, int32 (len(texts), length + 2 * margin).

    A text is cut after `length` tokens. `margin` padding tokens precede it, and padding tokens fill
    the row after it. (Kim pads by the largest filter width minus one, so that every filter position
    sees every word.) A word that is not in `words` becomes `UNKNOWN`.
    """
    ids = {word: i for i, word in enumerate(words)}
    unknown = ids[UNKNOWN]
    rows = np.full((len(texts), length + 2 * margin), ids[PAD], np.int32)
    for row, text in zip(rows, texts, strict=True):
        found = [ids.get(word, unknown) for word in text[:length]]
        row[margin : margin + len(found)] = found
    return rows


def make_splits(
    name: str,
    texts: Mapping[str, Sequence[str]],
    labels: Mapping[str, np.ndarray],
    *,
    lower: bool = True,
    length: int = 0,
    margin: int = MARGIN,
    min_count: int = 1,
) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Returns the splits as token ids, and the vocabulary.

    A text without tokens becomes one unknown word; a warning gives the number of such texts.

    Args:
        name: name of the data set, for messages.
        texts: {split: texts}; it must contain 'train'.
        labels: {split: int (N,)}.
        lower: whether to convert texts to lower case.
        length: maximum number of tokens to keep per text; 0 means the length of the longest
            training text.
        margin: see `encode`.
        min_count: see `vocabulary`.

    Raises:
        ValueError: `length` or `margin` is negative, or the training split is empty.
    """
    for argument, value in {'length': length, 'margin': margin}.items():
        if value < 0:
            raise UserError(f'{argument}={value}; it must not be negative')
    tokens = {split: [tokenize(text, lower) for text in texts[split]] for split in texts}
    if not tokens['train']:
        raise UserError(f'{name}: the training split is empty')
    words = vocabulary(tokens['train'], min_count)
    longest = length or max(1, *map(len, tokens['train']))
    for split, tokenised in tokens.items():
        empty = [i for i, text in enumerate(tokenised) if not text]
        if empty:
            warnings.warn(
                f'{name}: {len(empty)} texts of split {split} have no token (the first is number '
                f'{empty[0]}); each is read as one unknown word',
                stacklevel=2,
            )
        for i in empty:
            tokenised[i] = [UNKNOWN]
    splits = {
        split: Split(encode(tokens[split], words, longest, margin), labels[split].astype(np.int32))
        for split in texts
    }
    return splits, words

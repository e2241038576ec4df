"""Sentences as token ids: tokenisation and padding of Kim 2014, a vocabulary from training alone.

Yoon Kim, "Convolutional Neural Networks for Sentence Classification", arXiv:1408.5882, with the
rules of its published program (github.com/yoonkim/CNN_sentence).
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
MARGIN = 4  # paddings before and after every text, so that each word meets every place of a window
_NOT_KEPT = re.compile(r"[^A-Za-z0-9(),!?'`]")
_SUFFIX = re.compile(r"n't|'(?:s|ve|re|d|ll)")
_PUNCTUATION = re.compile(r'[,!()?]')


def tokenize(text: str, lower: bool = True) -> list[str]:
    """Splits as Kim does: only letters, digits and ( ) , ! ? ' ` are kept; "n't", "'s", "'ve",
    "'re", "'d", "'ll" begin a token of their own; punctuation marks are tokens.

    Example: `tokenize("It's good, isn't it?")` gives it 's good , is n't it ?
    """
    text = _NOT_KEPT.sub(' ', text)
    text = _SUFFIX.sub(r' \g<0>', text)
    text = _PUNCTUATION.sub(r' \g<0> ', text)
    return (text.lower() if lower else text).split()


def read_lines(file: str | pathlib.Path, errors: str = 'strict') -> list[str]:
    """Returns the lines of a UTF-8 file; only line feeds, or pairs with carriage returns, end them.

    Args:
        file: the file.
        errors: what becomes of bytes that are not UTF-8, as in `bytes.decode`.

    Raises:
        UserError: it is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        content = pathlib.Path(file).read_bytes().decode('utf-8-sig', errors)
    except UnicodeDecodeError as error:
        raise UserError(f'{file}: not a text in UTF-8 ({error})') from error
    lines = content.split('\n')
    if not lines[-1]:  # what follows the last line feed is no line
        del lines[-1]
    return [line.removesuffix('\r') for line in lines]


def vocabulary(texts: Iterable[Sequence[str]], min_count: int = 1) -> tuple[str, ...]:
    """The words of tokenised texts, from the most frequent on, after `PAD` (0) and `UNKNOWN` (1).

    Words of equal frequency are in alphabetical order, so the same texts give the same ids.

    Args:
        texts: of the training split only.
        min_count: words that occur fewer times are left out, and so read as unknown.
    """
    counts = collections.Counter(word for text in texts for word in text)
    words = sorted((-count, word) for word, count in counts.items() if count >= min_count)
    return (PAD, UNKNOWN, *(word for _, word in words))


def meta(words: Sequence[str], lower: bool) -> dict[str, Any]:
    """Returns what a run keeps to read texts as `make_splits` did with its default margin."""
    return {'vocabulary': words, 'lower': lower, 'margin': MARGIN}


def encode(
    texts: Sequence[Sequence[str]], words: Sequence[str], length: int, margin: int = 0
) -> np.ndarray:
    """Token ids, int32 (len(texts), length + 2 * margin).

    A text is cut after `length` tokens, preceded by `margin` paddings and followed by paddings to
    the end. (Kim pads by the largest filter less one, so that every word meets every filter place.)
    A word that is not in `words` becomes `UNKNOWN`.
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
    """Splits of token ids, and the vocabulary.

    A text without a single token becomes one unknown word, with a warning that counts them.

    Args:
        name: of the data set, for messages.
        texts: {split: texts}, with 'train' among them.
        labels: {split: int (N,)}.
        lower: whether upper case is lost.
        length: the most tokens of a text that are kept; 0 for those of the longest training text.
        margin: see `encode`.
        min_count: see `vocabulary`.

    Raises:
        ValueError: a negative `length` or `margin`; a training split that is empty.
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

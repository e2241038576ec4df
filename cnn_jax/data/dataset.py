"""Defines a loaded data set: named splits of arrays, class names and statistics."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnn_jax.errors import UserError, UserTypeError

KINDS = ('image', 'audio', 'text', 'array')
TASKS = ('classification', 'multilabel', 'regression', 'segmentation')
IGNORE = 255  # label of pixels that count neither in the loss nor in the metrics


def _empty() -> Mapping[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True)
class Split:
    """The examples of one split. Row i of every array belongs to example i.

    Attributes:
        inputs: (N, *shape): uint8 or float32 images (H, W, C), int16 or float32 waveforms (T, C),
            int32 token ids (L,), or float32 arrays of any other shape. An array, or an object that
            can be indexed by rows like an array (`stored.StoredImages`).
        labels: for each task, N rows of
            classification: int32 (N,), in [0, num_classes);
            multilabel: int32 (N, num_classes), 0 or 1;
            regression: float32 (N, num_classes), num_classes values per example;
            segmentation: uint8 or int32 (N, H, W), in [0, num_classes), or 255 for pixels that do
            not count.
        extra: further columns with N rows (for instance the speaker of a recording); loaders do not
            pass them to a model.
    """

    inputs: np.ndarray
    labels: np.ndarray
    extra: Mapping[str, np.ndarray] = dataclasses.field(default_factory=_empty)

    def __post_init__(self):
        for name, column in {'labels': self.labels, **self.extra}.items():
            if len(column) != len(self.inputs):
                raise UserError(f'{name} has {len(column)} rows, but inputs has {len(self.inputs)}')

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows) -> 'Split':
        """Returns the examples at `rows` (an index array or a slice), in that order.

        Images that are not in memory are not loaded.
        """
        extra = {name: column[rows] for name, column in self.extra.items()}
        is_array = isinstance(self.inputs, np.ndarray)
        inputs = self.inputs[rows] if is_array else self.inputs.take(rows)
        return Split(inputs, self.labels[rows], extra)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A loaded data set.

    Attributes:
        name: the name as given to `load`.
        kind: 'image', 'audio', 'text', or 'array' for inputs that are none of these.
        splits: 'train', 'test' and, if it exists, 'validation'.
        class_names: one name per class; for regression, one per value.
        task: 'classification', 'multilabel', 'regression' or 'segmentation'.
        mean: mean per channel of the training split's inputs after scaling (see `normalize`); ()
            for text.
        std: standard deviation per channel, computed like `mean`; () for text.
        meta: the source, the licence, and what a run must store to read new inputs in the same way
            (for text, the vocabulary).
    """

    name: str
    kind: str
    splits: Mapping[str, Split]
    class_names: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    meta: Mapping[str, Any] = dataclasses.field(default_factory=_empty)
    task: str = 'classification'

    def __post_init__(self):
        for what, value, known in (('kind', self.kind, KINDS), ('task', self.task, TASKS)):
            if value not in known:
                raise UserError(f'unknown {what} {value!r}; must be one of {", ".join(known)}')
        for name, split in self.splits.items():
            where = f'{self.name}, split {name}'
            check_labels(split.labels, len(self.class_names), where, task=self.task)
            check_finite(split.inputs, f'{where}: inputs')

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, without the batch axis."""
        return tuple(self.splits['train'].inputs.shape[1:])

    @property
    def model_options(self) -> dict[str, Any]:
        """Model options that this data set determines: `vocabulary_size` for text."""
        words = self.meta.get('vocabulary')
        return {} if words is None else {'vocabulary_size': len(words)}

    def describe(self) -> dict[str, Any]:
        """Returns a JSON-serialisable description without the examples, to be stored with a run."""
        return {
            'name': self.name,
            'kind': self.kind,
            'input_shape': list(self.input_shape),
            'dtype': str(self.splits['train'].inputs.dtype),
            'sizes': {name: len(split) for name, split in self.splits.items()},
            'fingerprints': {name: fingerprint(split) for name, split in self.splits.items()},
            'class_names': list(self.class_names),
            'mean': list(self.mean),
            'std': list(self.std),
            'meta': json.loads(json.dumps(dict(self.meta))),
            **({} if self.task == 'classification' else {'task': self.task}),
        }

    def differences(self, description: Mapping[str, Any], *, examples: bool) -> list[str]:
        """Lists the differences between this data set and a description from `describe`.

        Args:
            description: description of the other data set; if it has no fingerprints, they are not
                compared.
            examples: whether to compare the number and contents of the examples as well. Otherwise
                only the input shape, the classes and the vocabulary are compared.

        Returns:
            One phrase per difference; an empty list if there are none.
        """
        mine = self.describe() if examples else {}
        found = []
        for what, there, here in (
            ('input shape', tuple(description['input_shape']), self.input_shape),
            ('classes', tuple(description['class_names']), self.class_names),
        ):
            if there != here:
                found.append(f'{what} {_short(there)} in the run, {_short(here)} now')
        words = [tuple(meta.get('vocabulary', ())) for meta in (description['meta'], self.meta)]
        if words[0] != words[1]:
            found.append(f'vocabulary of {len(words[0])} words in the run, {len(words[1])} now')
        if not examples:
            return found
        for name in sorted(set(description['sizes']) | set(mine['sizes'])):
            there, here = (each['sizes'].get(name, 0) for each in (description, mine))
            if there != here:
                found.append(f'split {name} with {there} examples in the run, {here} now')
            elif description.get('fingerprints', mine['fingerprints']) != mine['fingerprints']:
                if description['fingerprints'].get(name) != mine['fingerprints'].get(name):
                    found.append(f'split {name} with different examples')
        return found

    @classmethod
    def described(cls, description: Mapping[str, Any]) -> 'Dataset':
        """Returns a data set with empty splits from a description that `describe` returned."""
        shape, dtype = description['input_shape'], description['dtype']
        task = description.get('task', 'classification')
        classes = len(description['class_names'])
        labels = {
            'classification': np.zeros(0, np.int32),
            'multilabel': np.zeros((0, classes), np.int32),
            'regression': np.zeros((0, classes), np.float32),
            'segmentation': np.zeros((0, *shape[:-1]), np.uint8),
        }[task]
        nothing = Split(np.zeros((0, *shape), dtype), labels)
        return cls(
            name=description['name'],
            kind=description['kind'],
            splits=dict.fromkeys(description['sizes'], nothing),
            class_names=tuple(description['class_names']),
            mean=tuple(description['mean']),
            std=tuple(description['std']),
            meta=description['meta'],
            task=task,
        )

    def normalize(self, inputs):
        """Converts raw inputs to model inputs: `normalize` with this data set's statistics."""
        return normalize(inputs, mean=self.mean, std=self.std)


# Number of evenly spaced examples that are hashed if the inputs are not in memory.
_FINGERPRINT_ROWS = 256


def fingerprint(split: Split) -> str:
    """Returns a hash of the examples of a split and their order, as 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    inputs = split.inputs
    if not isinstance(inputs, np.ndarray):
        n = min(len(inputs), _FINGERPRINT_ROWS)
        inputs = inputs[np.linspace(0, max(len(inputs) - 1, 0), n).astype(np.int64)]
    for array in (inputs, split.labels):
        digest.update(f'{array.dtype}{array.shape}'.encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _short(values: tuple[Any, ...], most: int = 8) -> str:
    more = f' and {len(values) - most} more' if len(values) > most else ''
    return f'({", ".join(map(str, values[:most]))}{more})'


_LABELS = {  # task -> kinds of dtype, what the dtype is, number of axes or None
    'classification': ('iu', 'integers', 1),
    'multilabel': ('iu', 'integers', 2),
    'regression': ('f', 'floats', 2),
    'segmentation': ('iu', 'integers', None),
}


def check_labels(
    labels: np.ndarray, num_classes: int, where: str, *, task: str = 'classification'
) -> None:
    """Checks the dtype, shape and range of labels; see `Split`.

    Raises:
        UserError: the labels do not fit the task; the message names the first wrong one.
    """
    kinds, what, ndim = _LABELS[task]
    columns = (num_classes,) if ndim == 2 else ()
    if labels.dtype.kind not in kinds:
        raise UserError(f'{where}: labels for {task} must be {what}, got dtype {labels.dtype}')
    if ndim and (labels.ndim != ndim or labels.shape[1:] != columns):
        wanted = ', '.join(map(str, ('N', *columns)))
        raise UserError(f'{where}: labels must have shape ({wanted}), got {labels.shape}')
    if task == 'regression':
        return check_finite(labels, f'{where}: labels')
    classes = 2 if task == 'multilabel' else num_classes
    wrong = (labels < 0) | (labels >= classes)
    if task == 'segmentation':
        wrong &= labels != IGNORE
    bad = np.argwhere(wrong)
    if len(bad):
        first = tuple(map(int, bad[0]))
        place = f'example {first[0]}' + (f', position {first[1:]}' if len(first) > 1 else '')
        raise UserError(
            f'{where}: label {labels[first]} at {place} is outside 0..{classes - 1}'
            + (f' (and {len(bad) - 1} more)' if len(bad) > 1 else '')
        )


def check_finite(values: Any, where: str) -> None:
    """Checks that an array of floats in memory is finite.

    Raises:
        UserError: a value is NaN or infinite; the message names the example.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind != 'f':
        return
    finite = np.isfinite(values)
    if not finite.all():
        rows = np.flatnonzero(~finite.reshape(len(values), -1).all(1))
        value = values[rows[0]][~finite[rows[0]]].flat[0]
        more = f' (and {len(rows) - 1} more examples)' if len(rows) > 1 else ''
        raise UserError(f'{where} of example {rows[0]} contain {value}{more}; must be finite')


# Inputs are divided by these numbers, which maps uint8 to [0, 1] and int16 to [-1, 1).
_FULL_SCALE = {'uint8': 255.0, 'int16': 32768.0}


def normalize(inputs, *, mean=(), std=()):
    """Converts raw inputs to float32, and scales and standardises them per channel.

    The function accepts NumPy arrays, JAX arrays and tracers, so it can be called inside `jax.jit`.

    Args:
        inputs: array of shape (..., C): uint8 (divided by 255), int16 (divided by 32768) or float32
            (not scaled); or int32 token ids of any shape, which are returned unchanged.
        mean: C numbers to subtract after scaling; () to subtract nothing.
        std: C numbers to divide by; () to divide by nothing.

    Returns:
        A float32 array of the same shape, or the int32 inputs unchanged.

    Raises:
        TypeError: `inputs` has another dtype.
    """
    dtype = str(inputs.dtype)
    if dtype == 'int32':
        return inputs
    if dtype not in _FULL_SCALE and dtype != 'float32':
        raise UserTypeError(f'inputs has dtype {dtype}; must be uint8, int16, float32 or int32')
    values = inputs.astype('float32')
    if dtype in _FULL_SCALE:
        values = values / np.float32(_FULL_SCALE[dtype])
    if mean:
        values = values - np.asarray(mean, np.float32)
    if std:
        values = values / np.asarray(std, np.float32)
    return values


def statistics(inputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and standard deviation of the scaled inputs per channel (last axis).

    For integer inputs they are computed from a histogram of the values, so the result is the same
    on every machine. The standard deviation of a constant channel is set to 1, so that `normalize`
    can divide by it.
    """
    channels = inputs.shape[-1]
    if not len(inputs):
        return (0.0,) * channels, (1.0,) * channels
    means, stds = [], []
    for channel in range(channels):
        column = inputs[..., channel].reshape(-1)
        if column.dtype.kind in 'iu':
            lowest = int(np.iinfo(column.dtype).min)
            counts = np.zeros(int(np.iinfo(column.dtype).max) - lowest + 1, np.int64)
            for part in np.array_split(column, max(1, column.size >> 24)):
                counts += np.bincount(part.astype(np.int64) - lowest, minlength=counts.size)
            values = (np.arange(counts.size) + lowest) / _FULL_SCALE[str(column.dtype)]
            mean = float(counts @ values / column.size)
            std = float(np.sqrt(counts @ (values - mean) ** 2 / column.size))
        else:
            mean, std = float(np.mean(column, dtype=np.float64)), float(np.std(column, dtype='f8'))
        means.append(mean)
        stds.append(std if column.min() < column.max() else 1.0)
    return tuple(means), tuple(stds)

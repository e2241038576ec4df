"""Makes a data set of a user's own arrays or map-style data set."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.data.dataset import IGNORE, TASKS, Dataset, Split, statistics
from cnn_jax.data.splits import SPLITS, hold_out
from cnn_jax.data.stored import StoredImages
from cnn_jax.errors import UserError

MEMORY_BYTES = 1 << 30  # a split whose inputs are larger is read when needed
SAMPLE = 4096  # number of rows used for the statistics if the inputs are not in memory


def as_dataset(
    data: Any,
    *,
    name: str = 'own',
    task: str | None = None,
    class_names: Sequence[str] | None = None,
    standardize: bool = True,
    validation: float = 0.0,
) -> Dataset:
    """Returns a `Dataset` of arrays, of map-style data sets, or of a mapping of splits to these.

        as_dataset((images, labels))
        as_dataset({'train': (images, labels), 'test': torchvision_style_dataset})

    A map-style data set has `__len__` and `__getitem__(i)`, which returns (input, label) or a
    mapping with 'inputs' (or 'image') and 'labels' (or 'label'): those of Grain and PyTorch, and
    any sequence of pairs. It is read once, to check it; its inputs stay in memory up to 1 GiB, and
    are read again when needed beyond that. Axes are channels last.

    Inputs and labels are converted to the dtypes of `Split`. The task follows from the labels:
    integers (N,) are classes, floats (N,) or (N, K) are values to regress, booleans or 0 and 1
    (N, K) are several labels per example, and integers (N, H, W) are masks.

    Args:
        data: a `Dataset` (returned unchanged, except for `validation`), (inputs, labels), a
            map-style data set, or a mapping from 'train', 'validation' and 'test' to these. 'train'
            is required. A mapping with 'splits' may also have 'class_names', 'task' and 'meta'.
        name: name of the data set, for messages and pictures.
        task: the task, if it does not follow from the labels.
        class_names: names of the classes or values; by default numbers.
        standardize: whether to standardise the inputs by the mean and standard deviation of the
            training inputs per channel. uint8 and int16 are scaled to [0, 1] and [-1, 1) in any
            case; token ids (int32) are never changed.
        validation: fraction of the training examples that become the split 'validation'.

    Raises:
        UserError: lengths or shapes differ, a value is not finite, a label is out of range, or
            something is missing; the message names the split and the example.
    """
    if isinstance(data, Dataset):
        return dataclasses.replace(data, splits=hold_out(data.splits, validation))
    meta: Mapping[str, Any] = {}
    if isinstance(data, Mapping) and 'splits' in data:
        task, class_names = task or data.get('task'), class_names or data.get('class_names')
        meta, data = data.get('meta', {}), data['splits']
    parts = data if isinstance(data, Mapping) else {'train': data}
    if 'train' not in parts or set(parts) - set(SPLITS):
        raise UserError(
            f'{name}: has the splits {", ".join(map(str, parts)) or "none"}; must have train, and '
            'may have validation and test'
        )
    splits = {split: _read(part, f'{name}, split {split}') for split, part in parts.items()}
    _check_equal(name, splits)
    task = task or _task_of(splits['train'].labels, name)
    if task not in TASKS:
        raise UserError(f'task={task!r}: must be one of {", ".join(TASKS)}')
    splits = {
        split: dataclasses.replace(part, labels=_as_labels(part.labels, task))
        for split, part in splits.items()
    }
    splits = dict(hold_out(splits, validation))
    inputs = splits['train'].inputs
    kind = _kind(inputs)
    mean, std = ((), ())
    if standardize and kind != 'text':
        mean, std = statistics(sample(inputs))
    names = tuple(map(str, class_names or _default_names(task, splits)))
    return Dataset(name, kind, splits, names, mean, std, meta, task)


def sample(inputs: Any) -> np.ndarray:
    """Returns inputs in memory, or evenly spaced rows of others."""
    if isinstance(inputs, np.ndarray):
        return inputs
    return inputs[np.linspace(0, len(inputs) - 1, min(SAMPLE, len(inputs))).astype(np.int64)]


def _read(part: Any, where: str) -> Split:
    if isinstance(part, Split):
        return part
    if isinstance(part, tuple | list) and len(part) == 2 and all(map(_is_array, part)):
        return Split(as_inputs(np.asarray(part[0]), where), np.asarray(part[1]))
    if hasattr(part, '__len__') and hasattr(part, '__getitem__') and not _is_array(part):
        return _read_source(part, where)
    raise UserError(
        f'{where}: got {type(part).__name__}; must be (inputs, labels), or have __len__ and '
        '__getitem__ and return (input, label)'
    )


def _is_array(value: Any) -> bool:
    """Returns whether a value is a column of examples, not one example of a sequence of pairs."""
    return hasattr(value, '__array__') and np.ndim(value) > 0


def _read_source(source: Any, where: str) -> Split:
    """Reads a map-style data set once; keeps its inputs unless they are too large."""
    n = len(source)
    if not n:
        raise UserError(f'{where}: is empty')
    kept, labels = [], []
    shape, in_memory = None, True
    for i in range(n):
        x, y = _pair(source[i], f'{where}, example {i}')
        if shape is None:
            shape, in_memory = x.shape, n * x.nbytes <= MEMORY_BYTES
        if x.shape != shape:
            raise UserError(f'{where}: example {i} has shape {x.shape}, but example 0 {shape}')
        labels.append(y)
        if in_memory:
            kept.append(x)
    if in_memory:
        return Split(as_inputs(np.stack(kept), where), np.stack(labels))
    read = lambda rows: [as_inputs(_pair(source[i], where)[0], where) for i in rows]  # noqa: E731
    return Split(StoredImages(read, lambda x: x, np.arange(n)), np.stack(labels))


_INPUTS, _LABELS = ('inputs', 'input', 'image'), ('labels', 'label')


def _pair(example: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(example, Mapping):
        names = [next((n for n in known if n in example), None) for known in (_INPUTS, _LABELS)]
        if None in names:
            raise UserError(
                f"{where}: has {', '.join(map(str, example))}; must have 'inputs' or 'image', and "
                "'labels' or 'label'"
            )
        example = tuple(example[n] for n in names)
    if not isinstance(example, tuple | list) or len(example) != 2:
        raise UserError(f'{where}: got {type(example).__name__}; must be (input, label)')
    return np.asarray(example[0]), np.asarray(example[1])


def as_inputs(inputs: np.ndarray, where: str) -> np.ndarray:
    """Converts inputs to one of the dtypes of `Split`."""
    if inputs.dtype in (np.uint8, np.int16, np.int32, np.float32):
        return inputs
    try:
        if inputs.dtype.kind in 'iu' and inputs.ndim <= 2:  # token ids
            found = inputs.astype(np.int32)
            if not (found == inputs).all():
                raise UserError(f'{where}: token ids must fit into int32, got {inputs.max()}')
            return found
        return inputs.astype(np.float32)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'{where}: inputs have dtype {inputs.dtype}; must be numbers') from error


def _as_labels(labels: np.ndarray, task: str) -> np.ndarray:
    if task == 'regression' and labels.dtype.kind in 'fiub':
        labels = labels.astype(np.float32)
        return labels[:, None] if labels.ndim == 1 else labels
    if labels.dtype.kind in 'iub' and not (task == 'segmentation' and labels.dtype == np.uint8):
        return labels.astype(np.int32)
    return labels


def _task_of(labels: np.ndarray, name: str) -> str:
    floats, ndim = labels.dtype.kind == 'f', labels.ndim
    if labels.dtype.kind in 'iubf':
        if ndim == 1 or (ndim == 2 and floats):
            return 'regression' if floats else 'classification'
        if ndim == 2 and ((labels == 0) | (labels == 1)).all():
            return 'multilabel'
        if ndim == 3 and not floats:
            return 'segmentation'
    raise UserError(
        f'{name}: labels of shape {labels.shape} and dtype {labels.dtype} fit no task; must be '
        'integers (N,), floats (N, K), 0 and 1 (N, K), or integers (N, H, W)'
    )


def _kind(inputs: Any) -> str:
    if inputs.dtype == np.int32 and len(inputs.shape) == 2:
        return 'text'
    return {4: 'image', 3: 'audio'}.get(len(inputs.shape), 'array')


def _check_equal(name: str, splits: Mapping[str, Split]) -> None:
    train = splits['train']
    for split, part in splits.items():
        if not len(part):
            raise UserError(f'{name}, split {split}: is empty')
        for what in ('inputs', 'labels'):
            here, there = getattr(part, what), getattr(train, what)
            if here.shape[1:] != there.shape[1:] or here.dtype != there.dtype:
                raise UserError(
                    f'{name}, split {split}: {what} are {here.dtype} {here.shape[1:]}, but those '
                    f'of train are {there.dtype} {there.shape[1:]}'
                )
    if len(train.inputs.shape) < 2:
        raise UserError(f'{name}: inputs have shape {train.inputs.shape}; must be (N, ...)')


def _default_names(task: str, splits: Mapping[str, Split]) -> list[str]:
    labels = [part.labels for part in splits.values()]
    if task in ('multilabel', 'regression'):
        return [str(i) for i in range(labels[0].shape[1])] if labels[0].ndim == 2 else []
    counted = [each[each != IGNORE] if task == 'segmentation' else each for each in labels]
    return [str(i) for i in range(1 + max(int(each.max(initial=0)) for each in counted))]

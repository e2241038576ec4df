"""Data sets made of a user's own arrays and map-style data sets."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.data import own
from cnn_jax.errors import UserError

X = np.random.default_rng(0).integers(0, 256, (20, 6, 5, 3), np.uint8)
Y = np.arange(20) % 3


class Source:
    """A map-style data set."""

    def __init__(self, inputs=X, labels=Y, form=tuple):
        self.inputs, self.labels, self.form, self.reads = inputs, labels, form, 0

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, i):
        self.reads += 1
        if self.form is tuple:
            return self.inputs[i], int(self.labels[i])
        return dict(zip(self.form, (self.inputs[i], self.labels[i]), strict=True))


def same(dataset, inputs=X, labels=Y, split='train'):
    part = dataset.splits[split]
    np.testing.assert_array_equal(part.inputs[:], inputs)
    np.testing.assert_array_equal(part.labels, labels)
    return dataset


@pytest.mark.parametrize(
    'given',
    [
        (X, Y),
        (X, Y.astype(np.uint8)),
        (jnp.asarray(X), jnp.asarray(Y)),
        {'train': (X, Y)},
        {'splits': {'train': data.Split(X, Y.astype(np.int32))}},
        Source(),
        Source(form=('image', 'label')),
        Source(form=('inputs', 'labels')),
        list(zip(X, Y.tolist(), strict=True)),
    ],
    ids=['numpy', 'uint8 labels', 'jax', 'splits', 'parts', 'pairs', 'image', 'inputs', 'list'],
)
def test_every_form_gives_the_same_data_set(given):
    dataset = same(data.as_dataset(given))
    assert (dataset.kind, dataset.task) == ('image', 'classification')
    assert dataset.class_names == ('0', '1', '2') and dataset.splits['train'].labels.dtype == 'i4'
    scaled = X / 255.0
    np.testing.assert_allclose(dataset.mean, scaled.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(dataset.std, scaled.std((0, 1, 2)), rtol=1e-6)


def test_data_sets_of_pytorch_and_grain():
    torch = pytest.importorskip('torch')
    pairs = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    dataset = data.as_dataset({'train': pairs, 'test': torch.utils.data.Subset(pairs, [4, 2])})
    same(same(dataset), X[[4, 2]], Y[[4, 2]], 'test')
    grain = pytest.importorskip('grain')
    rows = grain.MapDataset.range(20).map(lambda i: {'image': X[i], 'label': Y[i]})
    same(data.as_dataset(rows))


def test_a_large_source_is_read_when_needed(monkeypatch):
    monkeypatch.setattr(own, 'MEMORY_BYTES', X.nbytes - 1)
    source = Source(X.astype(np.float64))
    dataset = data.as_dataset(source)
    part = dataset.splits['train']
    assert not isinstance(part.inputs, np.ndarray) and part.inputs.dtype == np.float32
    before = source.reads
    np.testing.assert_array_equal(part.inputs[[3, 1]], X[[3, 1]])
    assert source.reads == before + 2
    assert part.take(slice(2, 4)).inputs.shape == (2, 6, 5, 3)
    assert part.inputs.nbytes == X.nbytes * 4


@pytest.mark.parametrize(
    ('labels', 'task', 'shape', 'dtype', 'names'),
    [
        (Y, 'classification', (20,), 'int32', 3),
        (Y / 2, 'regression', (20, 1), 'float32', 1),
        (np.stack([Y / 2, Y / 3], 1), 'regression', (20, 2), 'float32', 2),
        (np.stack([Y == 0, Y > 0], 1), 'multilabel', (20, 2), 'int32', 2),
        (X[..., 0] % 4, 'segmentation', (20, 6, 5), 'uint8', 4),
    ],
)
def test_the_task_follows_from_the_labels(labels, task, shape, dtype, names):
    dataset = data.as_dataset((X, labels))
    part = dataset.splits['train']
    assert (dataset.task, part.labels.shape, str(part.labels.dtype)) == (task, shape, dtype)
    assert dataset.num_classes == names
    again = data.Dataset.described(dataset.describe())
    assert again.task == task and again.splits['train'].labels.shape[1:] == shape[1:]


def test_inputs_become_the_dtypes_of_a_split():
    for given, dtype, kind in (
        (X.astype(np.float64), 'float32', 'image'),
        (X.astype(np.int64), 'float32', 'image'),
        (X[..., 0].astype(np.float16), 'float32', 'audio'),
        (X[:, 0, :, 0].astype(np.int64), 'int32', 'text'),
        (X[:, 0, 0].astype(np.float32), 'float32', 'array'),
    ):
        dataset = data.as_dataset((given, Y))
        assert (str(dataset.splits['train'].inputs.dtype), dataset.kind) == (dtype, kind)
    plain = data.as_dataset((X.astype(np.float32), Y), standardize=False)
    np.testing.assert_array_equal(plain.normalize(X.astype(np.float32)), X)


def test_a_fraction_can_be_held_out():
    dataset = data.as_dataset((X, Y), validation=0.25)
    assert {n: len(s) for n, s in dataset.splits.items()} == {'train': 15, 'validation': 5}
    again = data.as_dataset(dataset)
    assert again == dataclasses.replace(dataset) or again.splits.keys() == dataset.splits.keys()


NAN = X.astype(np.float32)
NAN[7, 2, 1, 0] = np.nan


@pytest.mark.parametrize(
    ('given', 'options', 'message'),
    [
        ((X, Y[:-1]), {}, 'labels has 19 rows, but inputs has 20'),
        ((NAN, Y), {}, 'own, split train: inputs of example 7 contain nan; must be finite'),
        ((X, np.where(Y == 1, np.nan, Y)), {}, 'labels of example 1 contain nan'),
        ((X, Y - 1), {}, 'label -1 at example 0 is outside'),
        ((X, Y), {'class_names': 'ab'}, r'label 2 at example 2 is outside 0..1 \(and 5 more\)'),
        ((X, Y), {'task': 'regress'}, "task='regress': must be one of classification"),
        ((X, X[..., 0] % 4), {'class_names': 'abc'}, r'label 3 at example 0, position \(0, 0\)'),
        ((X, np.full((20, 2), 2)), {}, r'labels of shape \(20, 2\) and dtype int64 fit no task'),
        ((X, Y.astype(str)), {}, 'fit no task'),
        ((np.full((20, 3), 'a'), Y), {}, 'split train: inputs have dtype <U1; must be numbers'),
        ({'test': (X, Y)}, {}, 'has the splits test; must have train'),
        ({'train': (X, Y), 'val': (X, Y)}, {}, 'has the splits train, val; must have train'),
        ({'train': (X, Y), 'test': (X[:, :4], Y)}, {}, r'split test: inputs are uint8 \(4, 5, 3\)'),
        ({'train': (X, Y), 'test': (X / 255, Y)}, {}, 'split test: inputs are float32'),
        ({'train': (X, Y), 'test': (X[:0], Y[:0])}, {}, 'split test: is empty'),
        (X, {}, 'got ndarray; must be'),
        (iter([(X[0], 1)]), {}, 'must be .inputs, labels., or have __len__'),
        ([], {}, 'is empty'),
        ([(X[0], 1), (X[1, :3], 0)], {}, r'example 1 has shape \(3, 5, 3\), but example 0'),
        ([X[0], X[1], X[2]], {}, 'example 0: got ndarray; must be .input, label.'),
        (
            Source(form=('picture', 'label')),
            {},
            "has picture, label; must have 'inputs' or 'image'",
        ),
        ((Y, Y), {}, r'inputs have shape \(20,\); must be \(N, ...\)'),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(given, options, message):
    with pytest.raises(UserError, match=message) as found:
        data.as_dataset(given, **options)
    assert '\n' not in str(found.value)

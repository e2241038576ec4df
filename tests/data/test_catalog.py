import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.data import Split, load, names
from cnn_jax.data.catalog import CATALOG
from cnn_jax.data.loading import hold_out


def test_digits_are_the_1797_of_scikit_learn():
    from sklearn.datasets import load_digits

    dataset = load('digits')
    train, test = dataset.splits['train'], dataset.splits['test']
    assert (len(train), len(test)) == (1442, 355)
    assert dataset.input_shape == (8, 8, 1) and dataset.num_classes == 10
    images = np.concatenate([train.inputs, test.inputs])[..., 0] // 15
    assert sorted(map(bytes, images)) == sorted(map(bytes, load_digits().images.astype(np.uint8)))
    assert np.bincount(test.labels).min() >= 34, 'every class is tested'
    scaled = dataset.normalize(train.inputs).astype(np.float64)
    assert abs(scaled.mean()) < 1e-4 and abs(scaled.std() - 1) < 1e-4


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown data set 'nope'.*digits.*mnist"):
        load('nope')
    assert 'digits' in names()


def test_validation_is_taken_from_the_training_split():
    whole, held = load('digits'), load('digits', validation=0.25)
    assert {name: len(split) for name, split in held.splits.items()} == {
        'train': 1082,
        'validation': 360,
        'test': 355,
    }
    parts = [held.splits[name].inputs for name in ('train', 'validation')]
    everything = sorted(map(bytes, np.concatenate(parts)))
    assert everything == sorted(map(bytes, whole.splits['train'].inputs))
    assert held.mean != whole.mean, 'statistics are of the training split alone'


@pytest.mark.parametrize('share', [-0.1, 1.0, 1e-6])
def test_a_validation_share_that_cannot_be_is_refused(share):
    with pytest.raises(ValueError, match='validation='):
        load('digits', validation=share)


def test_a_second_validation_split_is_refused():
    split = Split(np.zeros((4, 1)), np.zeros(4, np.int32))
    with pytest.raises(ValueError, match='its own validation split'):
        hold_out({'train': split, 'validation': split}, 0.5)


@pytest.mark.parametrize(
    'spec, problem',
    [
        ('digits:fold=1', 'digits has no option .fold.; it has none'),
        ('movie_reviews:bold=1', 'no option .bold.; it has fold, length, min_count'),
        ('movie_reviews:fold', 'write fold=...'),
        ('movie_reviews:fold=one', "fold='one' is not int"),
        ('movie_reviews:fold=10', 'fold=10; it must be in 0..9'),
        ('fsdd:length=0', 'length=0'),
    ],
)
def test_options_that_do_not_fit_are_named(spec, problem):
    with pytest.raises(ValueError, match=problem):
        load(spec)


@pytest.mark.parametrize(
    'name', ['fashion_mnist', 'mnist1d', 'mnist1d_shuffled', 'fsdd', 'trec', 'movie_reviews']
)
def test_real_sets_are_as_the_list_says(shared_data, name):
    dataset, entry = load(name, data_dir=shared_data), CATALOG[name]
    assert dataset.kind == entry.kind and dataset.num_classes == entry.classes
    assert len(dataset.input_shape) == len(entry.shape)
    for found, listed in zip(dataset.input_shape, entry.shape, strict=True):
        assert found == listed or isinstance(listed, str)
    assert {name: len(split) for name, split in dataset.splits.items()} == dict(entry.sizes)
    for split in dataset.splits.values():
        assert set(np.unique(split.labels)) == set(range(entry.classes))
    assert ('vocabulary' in dataset.meta) == (dataset.kind == 'text')


def test_a_speaker_can_be_left_out(shared_data):
    dataset = load('fsdd', data_dir=shared_data, test_speaker='theo', length=2000)
    theo = dataset.meta['speakers'].index('theo')
    assert set(dataset.splits['test'].extra['speaker']) == {theo}
    assert set(dataset.splits['train'].extra['speaker']) == set(range(6)) - {theo}
    assert (len(dataset.splits['train']), len(dataset.splits['test'])) == (2500, 500)
    with pytest.raises(ValueError, match="unknown test_speaker 'bob'; must be one of george"):
        load('fsdd', data_dir=shared_data, test_speaker='bob')


def test_each_review_is_tested_in_one_fold(shared_data):
    tested = 0
    for fold in range(0, 10, 3):
        dataset = load('movie_reviews', data_dir=shared_data, fold=fold)
        train, test = dataset.splits['train'], dataset.splits['test']
        assert len(train) + len(test) == 10_662
        assert abs(test.labels.mean() - 0.5) < 0.01
        tested += len(test)
        words = dataset.meta['vocabulary']
        assert train.inputs.max() == len(words) - 1 and not (train.inputs == 1).any()
        assert (test.inputs == 1).any(), 'a word that only the test split has is unknown'
    assert tested == 1068 + 3 * 1066


def test_shuffled_signals_are_the_same_samples_in_one_other_order(shared_data):
    plain = load('mnist1d', data_dir=shared_data).splits
    shuffled = load('mnist1d_shuffled', data_dir=shared_data).splits
    first = plain['train'].inputs[0, :, 0]
    order = [int(np.flatnonzero(first == value)[0]) for value in shuffled['train'].inputs[0, :, 0]]
    assert sorted(order) == list(range(40)) and order != list(range(40))
    for split in plain:
        np.testing.assert_array_equal(shuffled[split].inputs, plain[split].inputs[:, order])


def test_mnist1d_computed_is_mnist1d_published(shared_data, tmp_path):
    pytest.importorskip('mnist1d', reason='computing MNIST-1D needs the package mnist1d')
    computed, published = load('mnist1d', data_dir=tmp_path), load('mnist1d', data_dir=shared_data)
    for name in ('train', 'test'):
        ours, theirs = computed.splits[name], published.splits[name]
        a, b = (np.argsort(split.inputs[:, 0, 0], kind='stable') for split in (ours, theirs))
        np.testing.assert_allclose(ours.inputs[a], theirs.inputs[b], atol=1e-6)
        np.testing.assert_array_equal(ours.labels[a], theirs.labels[b])


def test_a_data_set_from_outside_loads(monkeypatch):
    monkeypatch.setattr(CATALOG, '_values', dict(CATALOG))

    def stripes(place, *, count: int = 20):
        labels = np.arange(count, dtype=np.int32) % 2
        images = np.zeros((count, 8, 8, 1), np.uint8)
        images[labels == 1, ::2] = 100
        split = data.Split(images, labels)
        splits = {'train': split.take(slice(4, None)), 'test': split.take(slice(4))}
        return {'splits': splits, 'class_names': ('plain', 'striped')}

    data.register('stripes', stripes, kind='image')
    loaded = data.load('stripes:count=12', validation=0.25)
    assert {n: len(split) for n, split in loaded.splits.items()} == {
        'train': 6,
        'test': 4,
        'validation': 2,
    }
    assert loaded.num_classes == 2 and loaded.input_shape == (8, 8, 1)
    assert 'stripes' in data.names() and 'stripes' in data.table()
    with pytest.raises(ValueError, match="stripes has no option 'size'; it has count"):
        data.load('stripes:size=1')

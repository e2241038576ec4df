"""Pictures: files are written, axes contain the given numbers, and wrong shapes are refused."""

import numpy as np
import pytest
from matplotlib.image import imread

from cnn_jax.viz import runs


def rows(steps=6):
    return [
        {
            'step': 10 * step,
            'epoch': step / 2,
            'train_loss': 2.0 / step,
            'train_accuracy': 0.5 + 0.05 * step,
            'test_loss': 2.5 / step if step % 2 == 0 else None,
            'test_accuracy': 0.4 + 0.05 * step,
        }
        for step in range(1, steps + 1)
    ]


def written(path):
    image = imread(path)
    assert image.std() > 0.01, 'an empty picture'
    return image


def test_learning_curves(tmp_path):
    path = tmp_path / 'new' / 'curves.png'
    figure = runs.learning_curves(rows(), path, title='digits')
    assert 400 < written(path).shape[1] < 2000
    loss, accuracy = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [row['train_loss'] for row in rows()])
    np.testing.assert_array_equal(loss.lines[1].get_xdata(), [20, 40, 60])  # None is left out
    np.testing.assert_allclose(
        accuracy.lines[1].get_ydata(), [100 * row['test_accuracy'] for row in rows()]
    )
    assert accuracy.get_ylabel() == 'accuracy (%)'
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ['train', 'test']


def test_learning_curves_without_accuracy_have_one_panel():
    figure = runs.learning_curves([{'step': 1, 'train_loss': 0.3}])
    assert len(figure.axes) == 1


def test_long_learning_curves_are_also_drawn_as_block_means():
    data = [{'step': i, 'train_loss': 1.0 + (-1) ** i} for i in range(1000)]
    raw, mean = runs.learning_curves(data).axes[0].lines
    assert len(raw.get_xdata()) == 1000 and len(mean.get_xdata()) == 50
    np.testing.assert_allclose(mean.get_ydata(), 1.0)


def test_a_diverged_run_can_be_drawn(tmp_path):
    data = [{'step': i, 'epoch': i, 'train_loss': np.nan if i > 2 else 1.0} for i in range(5)]
    runs.learning_curves(data, tmp_path / 'nan.png')
    written(tmp_path / 'nan.png')


@pytest.mark.parametrize('bad', [[], [{'step': 1}], [{'train_loss': 1.0}]])
def test_learning_curves_refuse_rows_without_points(bad):
    with pytest.raises(ValueError, match='rows: none of the'):
        runs.learning_curves(bad)


def test_confusion_matrix(tmp_path):
    matrix = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    figure = runs.confusion_matrix(matrix, ['cat', 'dog', 'owl'], tmp_path / 'm.png')
    written(tmp_path / 'm.png')
    counts, recall = figure.axes[:2]
    np.testing.assert_allclose(
        counts.images[0].get_array(), [[0.8, 0.2, 0], [0.1, 0.9, 0], [0, 0, 0]]
    )
    assert [text.get_text() for text in counts.texts] == ['8', '2', '1', '9']
    assert [text.get_text() for text in recall.texts] == ['80.0', '90.0', 'no examples']
    assert '85.00 % of 20 examples' in counts.get_title()
    assert [label.get_text() for label in counts.get_xticklabels()] == ['cat', 'dog', 'owl']


@pytest.mark.parametrize(
    ('matrix', 'names', 'message'),
    [
        (np.zeros((2, 3)), 'ab', r'expected \(K, K\) counts, got shape \(2, 3\)'),
        (np.zeros((0, 0)), '', r'expected \(K, K\) counts'),
        (np.zeros((2, 2)), 'abc', 'expected 2 names, got 3'),
        (np.full((2, 2), -1), 'ab', 'finite and >= 0'),
        (np.full((2, 2), np.nan), 'ab', 'finite and >= 0'),
    ],
)
def test_confusion_matrix_refuses(matrix, names, message):
    with pytest.raises(ValueError, match=message):
        runs.confusion_matrix(matrix, list(names))


def test_filters_of_one_channel_are_tiles_on_a_symmetric_scale(tmp_path):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 8))
    figure = runs.filters(kernel, tmp_path / 'f.png', title='conv1')
    written(tmp_path / 'f.png')
    picture = figure.axes[0].images[0]
    low, high = picture.get_clim()
    assert -low == high == np.abs(kernel).max()
    shown = np.ma.filled(picture.get_array(), np.nan)
    np.testing.assert_array_equal(shown[:3, :3], kernel[:, :, 0, 0])
    np.testing.assert_array_equal(shown[:3, 4:7], kernel[:, :, 0, 1])
    assert np.isnan(shown[:, 3]).all()
    assert figure.axes[-1].get_ylabel() == 'weight'


def test_filters_of_colour_images_show_every_channel():
    kernel = np.random.default_rng(0).normal(size=(5, 5, 3, 4))
    shown = np.ma.filled(runs.filters(kernel).axes[0].images[0].get_array(), np.nan)
    for channel in range(3):
        np.testing.assert_array_equal(
            shown[:5, 6 * channel : 6 * channel + 5], kernel[:, :, channel, 0]
        )


def test_one_dimensional_filters_are_curves(tmp_path):
    kernel = np.random.default_rng(0).normal(size=(80, 1, 12))
    figure = runs.filters(kernel, tmp_path / 'c.png')
    written(tmp_path / 'c.png')
    drawn = [axes for axes in figure.axes if axes.axison]
    assert len(drawn) == 12
    np.testing.assert_array_equal(drawn[5].lines[0].get_ydata(), kernel[:, 0, 5])
    assert drawn[0].get_ylim() == drawn[11].get_ylim()


@pytest.mark.parametrize('shape', [(5, 300, 100), (3, 3, 3, 2, 4)])
def test_other_filters_are_tiles(shape):
    axes = runs.filters(np.ones(shape)).axes[0]
    assert axes.images and 'filters' in axes.get_title()


@pytest.mark.parametrize('shape', [(3, 3), (3, 3, 1, 0), (1, 1, 1, 1, 1, 1)])
def test_filters_refuse(shape):
    with pytest.raises(ValueError, match='kernel: expected'):
        runs.filters(np.zeros(shape))


def test_feature_maps(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 8, 8, 3), np.uint8)
    maps = {
        'conv1': rng.normal(size=(2, 6, 6, 4)),
        'sequence': rng.normal(size=(2, 10, 5)),
        'logits': rng.normal(size=(2, 10)),
    }
    figure = runs.feature_maps(maps, images, tmp_path / 'm.png')
    written(tmp_path / 'm.png')
    drawn = figure.axes[:8]
    np.testing.assert_allclose(
        np.asarray(drawn[1].images[0].get_array()), (images[1] / 1.0 - images[1].min())
        / (images[1].max() - images[1].min()),
    )  # fmt: skip
    first = np.ma.filled(drawn[2].images[0].get_array(), np.nan)
    np.testing.assert_array_equal(first[:6, :6], maps['conv1'][0, :, :, 0])
    np.testing.assert_array_equal(first[7:, 7:], maps['conv1'][0, :, :, 3])
    assert drawn[2].images[0].get_clim() == drawn[3].images[0].get_clim()
    np.testing.assert_array_equal(drawn[4].images[0].get_array(), maps['sequence'][0].T)
    np.testing.assert_array_equal(drawn[7].patches[0].get_data().values, maps['logits'][1])
    assert drawn[2].get_ylabel() == 'conv1\n6×6×4'


def test_feature_maps_of_signals():
    figure = runs.feature_maps({'conv1': np.ones((3, 4, 2))}, np.ones((3, 20, 1)))
    assert len(figure.axes[0].lines[0].get_xdata()) == 20


def test_feature_maps_of_texts():
    figure = runs.feature_maps({'conv1': np.ones((2, 4, 2))}, ['How far is $ 5 ?', 'Who ?'])
    assert [axes.texts[0].get_text() for axes in figure.axes[:2]] == ['How far is $ 5 ?', 'Who ?']


@pytest.mark.parametrize(
    ('maps', 'images', 'message'),
    [
        ({}, np.ones((1, 4, 4, 1)), 'at least one layer'),
        ({'a': np.ones((2, 4, 4, 1))}, np.ones((1, 4, 4, 1)), "maps\\['a'\\]: expected"),
        ({'a': np.ones((1,))}, np.ones((1, 4, 4, 1)), "maps\\['a'\\]: expected"),
        ({'a': np.ones((1, 4))}, np.ones(4), 'images: expected'),
    ],
)
def test_feature_maps_refuse(maps, images, message):
    with pytest.raises(ValueError, match=message):
        runs.feature_maps(maps, images)

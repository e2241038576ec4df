"""Compares spectra of filters and n-grams with closed forms and plain loops."""

import numpy as np
import pytest
from matplotlib.image import imread

from cnn_jax.inspection import learned_filters


def test_a_cosine_has_its_frequency_and_channels_add_as_power():
    rate, time = 8000, np.arange(80) / 8000
    kernel = np.zeros((80, 2, 2), np.float32)
    for filter, frequency in enumerate((500, 3000)):
        kernel[:, :, filter] = np.cos(2 * np.pi * frequency * time)[:, None] * [0.6, 0.8]
    frequencies, magnitudes = learned_filters.spectra(kernel, rate)
    assert frequencies[0] == 0 and frequencies[-1] == rate / 2
    peaks = magnitudes.argmax(1)
    assert np.abs(frequencies[peaks] - [500, 3000]).max() <= rate / learned_filters.BINS
    # 80 / 2 for a unit cosine at its own frequency; the nearest bin and leakage cost under 3 %
    np.testing.assert_allclose(magnitudes.max(1), 40, rtol=0.03)


def test_ngrams_are_those_of_a_plain_search():
    rng = np.random.default_rng(0)
    words, window = [f'w{i}' for i in range(5)], 3
    ids = rng.integers(0, 5, (9, 8))
    responses = np.maximum(rng.normal(size=(9, 6, 4)), 0).astype(np.float32)
    responses[:, :, 3] = 0
    found = learned_filters.best_ngrams(responses, ids, words, window, count=4)
    for filter in range(4):
        best: dict[tuple, float] = {}
        for text in range(9):
            for at in range(6):
                gram = tuple(words[i] for i in ids[text, at : at + window])
                best[gram] = max(best.get(gram, 0.0), float(responses[text, at, filter]))
        expected = sorted((v for v in best.values() if v > 0), reverse=True)[:4]
        assert [gram.value for gram in found[filter]] == expected
        assert all(best[gram.words] == gram.value for gram in found[filter])
    assert found[3] == []
    with pytest.raises(ValueError, match=r'ids .* must be \(9, 9\)'):
        learned_filters.best_ngrams(responses, ids, words, 4)


def test_voters_are_ranked_by_what_they_can_add_to_a_class():
    gram = lambda value: [learned_filters.NGram(('a',), value)]  # noqa: E731
    ngrams = {'conv1': [gram(1.0), gram(5.0)], 'conv2': [gram(2.0), []]}
    kernel = np.array([[3.0, -1.0], [1.0, 0.1], [1.0, 0.5], [9.0, 9.0]])
    first, second = learned_filters.voters(ngrams, kernel, count=2)
    assert [(v.name, v.weight) for v in first] == [('conv1[1]', 1.0), ('conv1[0]', 3.0)]
    assert [v.name for v in second] == ['conv2[0]', 'conv1[1]']


def test_pictures_hold_what_they_show(tmp_path):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(20, 1, 5))
    figure = learned_filters.draw_spectra(kernel, None, tmp_path / 'a.png', title='first')
    left, right = figure.subfigs
    assert left.axes[0].images[0].get_array().shape[0] == 5
    curves = [axes for axes in right.axes if axes.lines]
    drawn = {int(axes.get_title().split()[1]) for axes in curves}
    assert drawn == set(range(5))
    for axes in curves:
        number = int(axes.get_title().split()[1])
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), kernel[:, 0, number])
    gram = learned_filters.NGram(('what', 'is'), 1.5)
    voter = learned_filters.Voter('conv2[7]', 0.25, [gram])
    figure = learned_filters.draw_ngrams([[voter]], ['DESC'], tmp_path / 'b.png', title='x')
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ['DESC', 'conv2[7]  weight +0.25', '1.5  what is']
    for name in ('a.png', 'b.png'):
        assert imread(tmp_path / name).std() > 0

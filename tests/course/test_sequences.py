"""The generated sounds and reviews of the course are what their descriptions say."""

import re

import numpy as np
import pytest

from cnn_jax.course import reviews, sounds

# ITU-T Q.23
TONES = {'1': (697, 1209), '5': (770, 1336), '9': (852, 1477), '0': (941, 1336), '#': (941, 1477)}


@pytest.mark.parametrize('name', TONES)
def test_a_key_has_its_two_tones(name):
    magnitudes = np.abs(np.fft.rfft(sounds.key(name, seconds=1.0)))  # one bin per Hz
    assert set(np.argsort(magnitudes)[-2:]) == set(TONES[name])


def test_sounds_are_those_of_their_labels():
    inputs, labels = sounds.examples(64, seed=0)
    assert inputs.shape == (64, 1024, 1) and inputs.dtype == np.float32
    assert set(labels) <= set(range(12))
    time = np.arange(1024) / sounds.RATE
    for sound, label in zip(inputs[..., 0], labels, strict=True):
        row = np.array(sounds.ROWS) == sounds.ROWS[label // 3]
        near = [[f * s for s in np.linspace(0.985, 1.015, 9)] for f in sounds.ROWS]
        power = np.abs(np.exp(2j * np.pi * np.array(near)[..., None] * time) @ sound).max(1)
        assert power[row].item() > 0.8 * power.max()


def test_words_do_not_tell_the_class_of_a_review_but_order_does():
    texts, labels = reviews.examples(200, seed=0)
    assert 80 < labels.sum() < 120
    for text, label in zip(texts, labels, strict=True):
        words = re.findall(r'\w+', text)
        assert [sum(w in which for w in words) for which in (reviews.GOOD, reviews.BAD)] == [1, 1]
        (after,) = re.findall(r'not (?:very )?(\w+)', text)
        assert words.count('not') == 1 and (after in reviews.BAD) == bool(label)


def test_seeds_make_different_examples_again_and_again():
    for make in (sounds.examples, reviews.examples):
        (a, i), (b, j), (c, _) = make(8, seed=0), make(8, seed=0), make(8, seed=1)
        assert np.array_equal(a, b) and np.array_equal(i, j) and not np.array_equal(a, c)

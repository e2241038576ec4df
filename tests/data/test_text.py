import numpy as np
import pytest

from cnn_jax.data import text


@pytest.mark.parametrize(
    'sentence, tokens',
    [
        ("It's good, isn't it?", "it 's good , is n't it ?"),
        ("We've won; they'll say we'd  lost!", "we 've won they 'll say we 'd lost !"),
        ('a 15-year-old (un)known', 'a 15 year old ( un ) known'),
        ('touché ... ', 'touch'),
        ('', ''),
    ],
)
def test_tokens_are_those_of_kim(sentence, tokens):
    assert text.tokenize(sentence) == tokens.split()


def test_case_is_kept_on_request():
    assert text.tokenize('Who is X?', lower=False) == ['Who', 'is', 'X', '?']


def test_vocabulary_is_by_frequency_then_alphabet():
    texts = [['b', 'a', 'c'], ['c', 'a'], ['c', 'd']]
    assert text.vocabulary(texts) == (text.PAD, text.UNKNOWN, 'c', 'a', 'b', 'd')
    assert text.vocabulary(texts, min_count=2) == (text.PAD, text.UNKNOWN, 'c', 'a')


def test_encoding_pads_cuts_and_marks_unknown_words():
    words = (text.PAD, text.UNKNOWN, 'x', 'y')
    ids = text.encode([['y', 'z'], ['x', 'x', 'y', 'y'], []], words, length=3, margin=2)
    assert ids.dtype == np.int32
    assert ids.tolist() == [
        [0, 0, 3, 1, 0, 0, 0],
        [0, 0, 2, 2, 3, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]


def splits(train, test, **options):
    texts = {'train': train, 'test': test}
    labels = {name: np.zeros(len(found), int) for name, found in texts.items()}
    return text.make_splits('tiny', texts, labels, **options)


def test_vocabulary_and_length_come_from_training_alone():
    made, words = splits(['one two', 'two'], ['two three four five'])
    assert words == (text.PAD, text.UNKNOWN, 'two', 'one')
    assert made['train'].inputs.shape == (2, 2 + 2 * 4) == (2, made['test'].inputs.shape[1])
    assert made['test'].inputs[0, 4:6].tolist() == [2, 1]


def test_an_empty_text_is_one_unknown_word_and_a_warning():
    with pytest.warns(UserWarning, match='tiny: 2 texts of split train .* number 1'):
        made, words = splits(['one', ' ', '--'], ['one'])
    assert made['train'].inputs[1, 4] == 1 and text.UNKNOWN not in words[2:]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match='length=-1'):
        splits(['one'], [], length=-1)
    with pytest.raises(ValueError, match='training split is empty'):
        splits([], ['one'])

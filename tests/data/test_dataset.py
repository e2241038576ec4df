import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data import Dataset, Split, normalize
from cnn_jax.data.dataset import statistics


def dataset(labels=(0, 1, 2), **changes):
    inputs = np.arange(3 * 2 * 2 * 1, dtype=np.uint8).reshape(3, 2, 2, 1)
    split = Split(inputs, np.array(labels, np.int32))
    arguments = {
        'name': 'tiny',
        'kind': 'image',
        'splits': {'train': split, 'test': split},
        'class_names': ('a', 'b', 'c'),
    }
    return Dataset(**{**arguments, **changes})


def test_shape_and_classes_come_from_the_data():
    assert dataset().input_shape == (2, 2, 1)
    assert dataset().num_classes == 3


def test_a_description_survives_json_and_holds_the_vocabulary():
    words = ('<pad>', '<unknown>', 'a')
    made = dataset(mean=(0.5,), std=(0.1,), meta={'vocabulary': words, 'options': {'fold': 3}})
    told = json.loads(json.dumps(made.describe()))
    assert told == made.describe()
    assert told['meta'] == {'vocabulary': list(words), 'options': {'fold': 3}}
    assert told['sizes'] == {'train': 3, 'test': 3} and told['input_shape'] == [2, 2, 1]
    assert made.model_options == {'vocabulary_size': 3} and dataset().model_options == {}
    again = Dataset.described(told)
    assert {
        **again.describe(),
        'sizes': told['sizes'],
        'fingerprints': told['fingerprints'],
    } == told
    assert again.describe()['sizes'] == {'train': 0, 'test': 0}
    inputs = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
    np.testing.assert_array_equal(again.normalize(inputs), made.normalize(inputs))


@pytest.mark.parametrize('labels, bad', [((0, 1, 3), 'label 3 at example 2'), ((-1, 0, 0), '-1')])
def test_a_label_out_of_range_is_named(labels, bad):
    with pytest.raises(ValueError, match=f'tiny, split train.*{bad}.*0..2'):
        dataset(labels)


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match='labels has 2 rows, but inputs has 3'):
        Split(np.zeros((3, 1)), np.zeros(2, np.int32))


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="unknown kind 'video'; must be one of image, audio, text"):
        dataset(kind='video')


@pytest.mark.parametrize('dtype, scale', [('uint8', 255), ('int16', 32768), ('float32', 1)])
def test_normalize_in_and_out_of_jit_is_the_formula(dtype, scale):
    rng = np.random.default_rng(0)
    inputs = (rng.uniform(0, 1, (4, 5, 3)) * max(scale - 1, 1)).astype(dtype)
    mean, std = (0.1, 0.2, 0.3), (0.5, 2.0, 1.5)
    expected = (inputs.astype(np.float64) / scale - np.array(mean)) / np.array(std)
    for result in (
        normalize(inputs, mean=mean, std=std),
        jax.jit(lambda x: normalize(x, mean=mean, std=std))(jnp.asarray(inputs)),
    ):
        assert result.dtype == np.float32
        # A scaling, a difference of numbers below 1 and a quotient: a few roundings of 6e-8 each.
        np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


def test_normalize_leaves_tokens_alone_and_refuses_other_dtypes():
    tokens = np.array([[3, 1, 0]], np.int32)
    assert normalize(tokens) is tokens
    with pytest.raises(TypeError, match='float64'):
        normalize(tokens.astype(np.float64))


@pytest.mark.parametrize('dtype, scale', [('uint8', 255), ('int16', 32768), ('float32', 1)])
def test_statistics_standardise_what_they_were_taken_from(dtype, scale):
    rng = np.random.default_rng(1)
    inputs = (rng.beta(2, 3, (50, 7, 2)) * max(scale - 1, 1)).astype(dtype)
    mean, std = statistics(inputs)
    scaled = inputs.astype(np.float64) / scale
    np.testing.assert_allclose(mean, scaled.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 1)), rtol=1e-12)


def test_a_constant_channel_is_not_divided_by_zero():
    mean, std = statistics(np.full((3, 4, 1), 51, np.uint8))
    assert mean == pytest.approx((0.2,)) and std == (1.0,)

"""Tests each operation of RandAugment and TrivialAugment against Pillow, and the policies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cnn_jax.training import TrainConfig, augment
from cnn_jax.training import augment_policies as policies

SIZE = (23, 18)  # height, width


def picture(channels, seed=0):
    """A smooth image with noise, uint8, whose values do not fill the whole range."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    waves = [np.sin(x / (3 + c)) + np.cos(y / (2 + c)) for c in range(channels)]
    image = 110 + 40 * np.stack(waves, -1) + chance.normal(0, 8, (*SIZE, channels))
    return image.clip(9, 240).astype(np.uint8)


def pillow(image):
    return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])


def levels(image):
    return np.asarray(image, np.float64).reshape(*SIZE, -1) * 255


def enhance(kind):
    return lambda image, factor: kind(image).enhance(factor)


COLOURS = {
    'brightness': (policies.brightness, enhance(ImageEnhance.Brightness), [0.1, 0.7, 1.0, 1.9]),
    'colour': (policies.colour, enhance(ImageEnhance.Color), [0.1, 0.7, 1.0, 1.9]),
    'contrast': (policies.contrast, enhance(ImageEnhance.Contrast), [0.1, 0.7, 1.0, 1.9]),
    'sharpness': (policies.sharpness, enhance(ImageEnhance.Sharpness), [0.1, 0.7, 1.0, 1.9]),
    'posterize': (policies.posterize, ImageOps.posterize, [2, 4, 5, 8]),
    'solarize': (policies.solarize, ImageOps.solarize, [0, 100, 178.5, 255]),
    'autocontrast': (lambda image, _: policies.autocontrast(image), None, [0]),
    'equalize': (lambda image, _: policies.equalize(image), None, [0]),
}
EXACT = ('posterize', 'equalize', 'solarize')


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', COLOURS)
def test_colours_are_those_of_pillow(name, channels):
    ours, theirs, amounts = COLOURS[name]
    theirs = theirs or (lambda image, _: getattr(ImageOps, name)(image))
    ours = jax.jit(ours)
    for seed, amount in enumerate(amounts):
        image = picture(channels, seed)
        wanted = np.asarray(theirs(pillow(image), amount)).reshape(image.shape)
        found = levels(ours(jnp.float32(image) / 255, amount))
        # Pillow truncates to whole levels where results here stay fractions, and it rounds the
        # grey values as well.
        limit = 1e-3 if name in EXACT else 2.01
        assert np.abs(found - wanted).max() <= limit, amount
        assert found.min() >= 0 and found.max() <= 255.001


@pytest.mark.parametrize('name', ['autocontrast', 'equalize', 'sharpness', 'contrast'])
def test_colours_of_a_constant_and_of_a_tiny_image(name):
    ours = COLOURS[name][0]
    for shape in ((4, 5, 1), (1, 1, 3), (2, 2, 1)):
        image = jnp.full(shape, 77 / 255)
        np.testing.assert_allclose(jax.jit(ours)(image, 1.9), image, atol=1e-6)


MATRICES = {
    'shear_x': (policies.shear_x(0.31), (1, 0.31, 0, 0, 1, 0)),
    'shear_y': (policies.shear_y(-0.87), (1, 0, 0, -0.87, 1, 0)),
    'translate_x': (policies.translate_x(5.0), (1, 0, 5, 0, 1, 0)),
    'translate_y': (policies.translate_y(-32.0), (1, 0, 0, 0, 1, -32)),
}


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', [*MATRICES, 'rotate'])
def test_geometry_is_that_of_pillow(name, channels):
    image = picture(channels)
    if name == 'rotate':
        cases = [(policies.rotate(a, SIZE), pillow(image).rotate(a)) for a in (-135.0, 13.0, 30.0)]
    else:
        matrix, coefficients = MATRICES[name]
        moved = pillow(image).transform(
            SIZE[::-1], Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST
        )
        cases = [(matrix, moved)]
    for matrix, wanted in cases:
        found = levels(policies.warp(jnp.float32(image) / 255, matrix))
        wrong = np.abs(found - np.asarray(wanted).reshape(image.shape)).max(-1) > 1e-3
        # Neighbours may differ where a position is half way between two, to rounding.
        assert wrong.mean() < 0.01


IMAGES = jnp.asarray(np.stack([picture(3, seed) for seed in range(256)]) / 255, jnp.float32)


def test_operations_are_drawn_uniformly_for_each_image():
    """At level 30, every operation except the identity changes an image in its own way."""
    policy = policies.rand_augment(1, 30)
    images = jnp.repeat(IMAGES[:1], 700, axis=0)
    found = np.asarray(jax.jit(policies.apply, static_argnums=0)(policy, jax.random.key(0), images))
    kinds, counts = np.unique(found.round(4).reshape(700, -1), axis=0, return_counts=True)
    # 9 operations have a sign (a factor of 1.9 or 0.1 for the colours), and 5 have none.
    assert len(kinds) == 9 * 2 + 5
    expected = np.sort([700 / 28] * 18 + [700 / 14] * 5)
    assert np.abs(np.sort(counts) - expected).max() < 4 * np.sqrt(50)
    assert found.min() >= 0 and found.max() <= 1.0001


def test_level_0_changes_nothing_but_the_operations_without_levels():
    policy = policies.rand_augment(1, 0)
    apply = jax.jit(policies.apply, static_argnums=0)
    found = np.asarray(apply(policy, jax.random.key(1), IMAGES))
    same = np.abs(found - IMAGES).max((1, 2, 3)) < 1e-5
    # Autocontrast and equalise have no levels; the others are the identity at level 0.
    assert abs(same.mean() - 12 / 14) < 4 * np.sqrt(12 / 14 * 2 / 14 / len(IMAGES))


def test_trivial_draws_levels_and_the_key_decides_all():
    apply = jax.jit(lambda key: policies.apply(policies.trivial_augment(), key, IMAGES[:64]))
    one, again, other = (np.asarray(apply(jax.random.key(k))) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.any(one != other) and np.isfinite(one).all()


def test_policies_see_the_images_that_were_normalised():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)
    config = TrainConfig(augment='randaugment:2:9')
    function = jax.jit(augment.make_augment(config, 'image', mean=mean, std=std))
    normalised = (IMAGES[:64] - np.float32(mean)) / np.float32(std)
    found, _ = function(jax.random.key(3), normalised, None)
    images = found * np.float32(std) + np.float32(mean)
    assert images.min() >= -1e-5 and images.max() <= 1 + 1e-5
    same = np.abs(found - normalised).max((1, 2, 3)) < 1e-4
    assert 0 <= same.mean() < 0.3


@pytest.mark.parametrize(
    'text, said',
    [
        ('randaugment:0:9', 'randaugment:0:9 must be a number of operations of at least 1'),
        ('randaugment:2:31', 'strength of 0 to 30'),
        ('randaugment:2:x', 'write randaugment:2:9'),
        ('trivial:3', 'write randaugment:2:9 .* or trivial'),
        ('trivial,trivial', 'once'),
    ],
)
def test_policies_without_sense_are_said(text, said):
    with pytest.raises(ValueError, match=said):
        augment.parse(text, 'image')
    with pytest.raises(ValueError, match='does not apply to audio'):
        augment.parse('trivial', 'audio')

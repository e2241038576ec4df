"""Augmentation: what each operation may and may not do to an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.training import TrainConfig, augment

KEY = jax.random.key(0)
# Every pixel of every image has a unique value, so that it can be found after it has moved.
IMAGES = jnp.arange(1, 1 + 64 * 6 * 8 * 2, dtype=jnp.float32).reshape(64, 6, 8, 2)


def test_crop_is_one_of_all_shifts():
    found = np.asarray(augment.crop(KEY, IMAGES, 1))
    padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [
        [
            np.array_equal(found[i], padded[i, r : r + 6, c : c + 8])
            for r in range(3)
            for c in range(3)
        ]
        for i in range(64)
    ]
    assert np.sum(shifts, axis=1).tolist() == [1] * 64
    assert np.any(shifts, axis=0).all()  # 64 draws miss one of the 9 shifts in 1 of 200 seeds


def test_flip_mirrors_left_and_right():
    found = np.asarray(augment.flip(KEY, IMAGES, 0.5))
    same = (found == np.asarray(IMAGES)).all((1, 2, 3))
    mirrored = (found == np.asarray(IMAGES)[:, :, ::-1]).all((1, 2, 3))
    assert np.array_equal(same, ~mirrored) and 16 < same.sum() < 48
    assert np.array_equal(augment.flip(KEY, IMAGES, 1.0), IMAGES[:, :, ::-1])


@pytest.mark.parametrize(
    'change', [(augment.cutout, 3), (augment.erase, 1.0)], ids=['cutout', 'erase']
)
def test_a_box_is_replaced_and_nothing_else(change):
    function, value = change
    found = np.asarray(function(KEY, IMAGES, value))
    changed = found != np.asarray(IMAGES)
    for mask in changed:
        rows, columns = mask.any((1, 2)), mask.any((0, 2))
        assert np.array_equal(mask.any(2), rows[:, None] & columns[None])  # a rectangle
        assert all(
            np.ptp(np.flatnonzero(side)) + 1 == side.sum() for side in (rows, columns) if side.any()
        )
        if function is augment.cutout:
            assert 0 < rows.sum() <= 3 and 0 < columns.sum() <= 3
            assert mask.any(2).sum() >= 4  # at least half of it is inside along each axis
    if function is augment.cutout:
        assert (found[changed] == 0).all()


def test_mixup_keeps_the_shares():
    targets = jax.nn.one_hot(jnp.arange(64) % 4, 4)
    inputs, mixed = augment.mixup(KEY, IMAGES, targets, 1.0)
    share = (inputs[0] - IMAGES[-1]) / (IMAGES[0] - IMAGES[-1])
    np.testing.assert_allclose(share, share[0, 0, 0], atol=1e-4)
    np.testing.assert_allclose(
        mixed, share[0, 0, 0] * targets + (1 - share[0, 0, 0]) * targets[::-1], atol=1e-4
    )


def test_cutmix_weighs_by_area():
    targets = jax.nn.one_hot(jnp.arange(64), 64)
    for seed in range(5):
        images, mixed = augment.cutmix(jax.random.key(seed), IMAGES, targets, 1.0)
        own = np.asarray(images == IMAGES)
        other = np.asarray(images == IMAGES[::-1])
        assert np.array_equal(own, ~other)
        np.testing.assert_allclose(mixed[0, 0], own[0].mean(), atol=1e-6)
        np.testing.assert_allclose(mixed.sum(1), 1, atol=1e-6)


def test_all_of_them_inside_jit_depend_on_the_key_alone():
    config = TrainConfig(augment='crop:1,flip,cutout:2,erase,mixup,cutmix')
    function = jax.jit(augment.make_augment(config, 'image'))
    targets = jax.nn.one_hot(jnp.arange(64) % 4, 4)
    one, two, other = (function(jax.random.key(k), IMAGES, targets) for k in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize(
    'text, kind, said',
    [
        ('flop', 'image', "'flop' must be one of crop, flip"),
        ('crop', 'image', 'write a number after crop'),
        ('crop:x', 'image', 'write a number'),
        ('erase:2', 'image', '2 is out of range'),
        ('flip,flip', 'image', 'once'),
        ('flip', 'audio', 'flip does not apply to audio'),
        ('mixup', 'text', 'mixup does not apply to text'),
    ],
)
def test_what_cannot_be_is_said(text, kind, said):
    with pytest.raises(ValueError, match=said):
        augment.parse(text, kind)

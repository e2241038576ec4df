"""RandAugment and TrivialAugment: random geometric and colour operations per image, inside jit.

Cubuk et al. 2019, "RandAugment", arXiv:1909.13719, applies `num_ops` random operations of a given
strength. Müller and Hutter 2021, "TrivialAugment", arXiv:2103.10158, applies one of random
strength. Both draw from the same 14 operations, uniformly. Ranges of strengths, and the scale of
levels from 0 to 30, are those of torchvision 0.11 (`RandAugment` and `TrivialAugmentWide`).

Images are float32 (H, W, C) in [0, 1]. The operations are those of Pillow; equalising, posterising
and solarising round to 256 levels first, because they are defined on these. Pixels from outside the
image are black, and nearest neighbours are used, as in both papers.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cnn_jax.errors import UserError

Array = jax.Array

GREATEST_LEVEL = 30


class Ranges(NamedTuple):
    """The strengths of the operations at `GREATEST_LEVEL`.

    Attributes:
        shear: shift in pixels per row or column.
        translate: size of the image in pixels -> shift in pixels.
        rotate: angle in degrees.
        enhance: distance of the factors of brightness, colour, contrast and sharpness from 1.
        posterize: number of bits removed.
    """

    shear: float
    translate: Callable[[int], float]
    rotate: float
    enhance: float
    posterize: int


class Policy(NamedTuple):
    """Which operations are applied to each image.

    Attributes:
        num_ops: number of operations, one after another.
        level: their strength, from 0 to `GREATEST_LEVEL`; None draws it for each operation.
        ranges: the strengths at `GREATEST_LEVEL`.
    """

    num_ops: int
    level: int | None
    ranges: Ranges


def rand_augment(num_ops: int = 2, level: int = 9) -> Policy:
    """Returns the policy of RandAugment.

    Raises:
        UserError: `num_ops` is below 1, or `level` is outside 0 to 30.
    """
    if num_ops < 1 or not 0 <= level <= GREATEST_LEVEL:
        raise UserError(
            f'randaugment:{num_ops}:{level} must be a number of operations of at least 1 and a '
            f'strength of 0 to {GREATEST_LEVEL}'
        )
    # AutoAugment, whose ranges these are, moves images of 331 pixels by up to 150.
    return Policy(num_ops, level, Ranges(0.3, lambda size: size * 150 / 331, 30.0, 0.9, 4))


def trivial_augment() -> Policy:
    """Returns the policy of TrivialAugment with the wide ranges."""
    return Policy(1, None, Ranges(0.99, lambda size: 32.0, 135.0, 0.99, 6))


def apply(policy: Policy, key: Array, images: Array) -> Array:
    """Returns images (N, H, W, C) after the operations of a policy, drawn for each image."""

    def one(key, image):
        for i in range(policy.num_ops):
            image = _random_operation(policy, jax.random.fold_in(key, i), image)
        return image

    return jax.vmap(one)(jax.random.split(key, len(images)), images)


def _random_operation(policy: Policy, key: Array, image: Array) -> Array:
    keys = jax.random.split(key, 3)
    ranges, (height, width, _) = policy.ranges, image.shape
    level = policy.level
    if level is None:
        level = jax.random.randint(keys[0], (), 0, GREATEST_LEVEL + 1)
    strength = level / GREATEST_LEVEL
    signed = strength * jax.random.rademacher(keys[1], (), jnp.float32)
    factor = 1 + signed * ranges.enhance
    matrices = [
        shear_x(signed * ranges.shear),
        shear_y(signed * ranges.shear),
        translate_x(jnp.trunc(signed * ranges.translate(width))),
        translate_y(jnp.trunc(signed * ranges.translate(height))),
        rotate(signed * ranges.rotate, (height, width)),
        _IDENTITY,
    ]
    colours = [
        lambda image: image,
        lambda image: brightness(image, factor),
        lambda image: colour(image, factor),
        lambda image: contrast(image, factor),
        lambda image: sharpness(image, factor),
        lambda image: posterize(image, 8 - jnp.round(strength * ranges.posterize).astype(int)),
        lambda image: solarize(image, 255 * (1 - strength)),
        autocontrast,
        equalize,
    ]
    # The last matrix and the first colour are the identity, which is itself an operation.
    last = len(matrices) - 1
    which = jax.random.randint(keys[2], (), 0, last + len(colours))
    table = jnp.stack([jnp.asarray(m, jnp.float32) for m in matrices])
    image = warp(image, table[jnp.minimum(which, last)])
    return jax.lax.switch(jnp.maximum(which - last, 0), colours, image)


# Geometry. A matrix is ((a, b, c), (d, e, f)): the pixel at column x and row y of the result is the
# one at (a x + b y + c, d x + e y + f) of the image.

_IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def shear_x(amount):
    return jnp.array([[1.0, amount, 0.0], [0.0, 1.0, 0.0]])


def shear_y(amount):
    return jnp.array([[1.0, 0.0, 0.0], [amount, 1.0, 0.0]])


def translate_x(pixels):
    return jnp.array([[1.0, 0.0, pixels], [0.0, 1.0, 0.0]])


def translate_y(pixels):
    return jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, pixels]])


def rotate(degrees, size: tuple[int, int]):
    """Returns the matrix of a rotation about the centre of an image (height, width)."""
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y, x = size[0] / 2, size[1] / 2
    return jnp.array([[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])


def warp(image: Array, matrix: Array) -> Array:
    """Returns the image under a matrix, by nearest neighbours; black outside of the image."""
    height, width, _ = image.shape
    y, x = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing='ij')
    column, row = (jnp.floor(a * x + b * y + c).astype(int) for a, b, c in matrix)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    taken = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], taken, 0)


# Colours.


def brightness(image: Array, factor) -> Array:
    return _blend(jnp.zeros_like(image), image, factor)


def colour(image: Array, factor) -> Array:
    """Changes the saturation; without colours, this is the identity."""
    return _blend(_grey(image), image, factor)


def contrast(image: Array, factor) -> Array:
    return _blend(_grey(image).mean(), image, factor)


def sharpness(image: Array, factor) -> Array:
    """Extrapolates from a smoothed image; pixels at the border stay as they are."""
    height, width, _ = image.shape
    if min(height, width) < 3:
        return image
    kernel = jnp.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13  # SMOOTH of Pillow
    smooth = sum(
        kernel[i, j] * image[i : height - 2 + i, j : width - 2 + j]
        for i in range(3)
        for j in range(3)
    )
    return _blend(image.at[1:-1, 1:-1].set(smooth), image, factor)


def posterize(image: Array, bits) -> Array:
    """Keeps the `bits` (0 to 8) highest bits of each value."""
    levels = _levels(image)
    return (levels >> (8 - bits) << (8 - bits)) / 255


def solarize(image: Array, threshold) -> Array:
    """Inverts the values of at least `threshold`, of 255."""
    return jnp.where(_levels(image) < threshold, image, 1 - image)


def autocontrast(image: Array) -> Array:
    """Stretches each channel to the range from 0 to 1; constant channels stay as they are."""
    low, high = image.min((0, 1)), image.max((0, 1))
    span = high - low
    return jnp.where(span > 0, (image - low) / jnp.where(span > 0, span, 1), image)


def equalize(image: Array) -> Array:
    """Equalises the histogram of each channel over 256 levels, in the integers of Pillow."""

    def one(channel):
        counts = jnp.bincount(channel.ravel(), length=256)
        step = (channel.size - counts[channel.max()]) // 255
        before = jnp.cumsum(counts) - counts
        table = jnp.minimum((before + step // 2) // jnp.maximum(step, 1), 255)
        return jnp.where(step > 0, table[channel], channel)

    return jax.vmap(one, in_axes=-1, out_axes=-1)(_levels(image)) / 255


def _levels(image: Array) -> Array:
    """Returns the image in levels from 0 to 255, int32."""
    return jnp.clip(jnp.round(image * 255), 0, 255).astype(jnp.int32)


def _grey(image: Array) -> Array:
    """Returns the luma (H, W, 1) of ITU-R BT.601, or the mean if there are not three channels."""
    if image.shape[-1] != 3:
        return image.mean(-1, keepdims=True)
    return (image * jnp.array([0.299, 0.587, 0.114])).sum(-1, keepdims=True)


def _blend(start: Array, end: Array, factor) -> Array:
    """Returns the point at `factor` on the line from `start` (0) to `end` (1), in [0, 1]."""
    return jnp.clip(start + factor * (end - start), 0, 1)

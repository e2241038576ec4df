"""Augments images and their masks together, inside jit, for semantic segmentation.

The texts are those of `augment`: 'crop:4,flip,cutout:8'. Crop and flip move the mask with its
image; pixels that come from outside the image are ignored. Cutout and erase change the image alone,
so that the model has to infer the labels of what is hidden from its surroundings.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax.data.masks import IGNORE
from cnn_jax.errors import UserError
from cnn_jax.training import augment
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.mesh import has_strips

Array = jax.Array


def crop(
    key: Array, images: Array, labels: Array, pad: float, *, in_strips: bool = False
) -> tuple[Array, Array]:
    """Shifts each image and its mask by up to `pad` pixels; see `augment.crop`.

    Args:
        key: random key.
        images: (N, H, W, C) float, filled with zeros.
        labels: (N, H, W) int, filled with IGNORE.
        pad: largest shift.
        in_strips: see `augment.crop`.
    """
    shift = functools.partial(augment.crop, key, pad=pad, in_strips=in_strips)
    # `augment.crop` fills with zeros, so IGNORE must be 0 meanwhile.
    shifted = shift(labels[..., None].astype(jnp.int32) - IGNORE)[..., 0]
    return shift(images), shifted + IGNORE


def flip(key: Array, images: Array, labels: Array, probability: float) -> tuple[Array, Array]:
    """Flips each image and its mask horizontally with the given probability."""
    flipped = augment.flip(key, labels[..., None], probability)[..., 0]
    return augment.flip(key, images, probability), flipped


_ON_BOTH: dict[str, Callable[..., Any]] = {'crop': crop, 'flip': flip}
_ON_IMAGES = {'cutout': augment.cutout, 'erase': augment.erase}
_NAMES = (*_ON_BOTH, *_ON_IMAGES)


def make_augment(config: TrainConfig) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
    """Returns the function (key, images, labels) -> (images, labels) for `config.augment`.

    Images are normalised, (N, H, W, C); labels are masks (N, H, W). The order is crop, flip,
    cutout, erase, as in `augment`.

    Raises:
        UserError: an augmentation is unknown, has a wrong value, or does not apply to masks.
    """
    chosen = augment.parse(config.augment, 'image')
    if others := [name for name in chosen if name not in _NAMES]:
        raise UserError(
            f'augment={config.augment!r}: {others[0]} does not apply to masks; those that do are '
            f'{", ".join(_NAMES)}'
        )

    on_both = _ON_BOTH | {'crop': functools.partial(crop, in_strips=has_strips(config.mesh))}

    def both(key: Array, images: Array, labels: Array) -> tuple[Array, Array]:
        for i, name in enumerate(_NAMES):
            if name not in chosen:
                continue
            now = jax.random.fold_in(key, i)
            if name in on_both:
                images, labels = on_both[name](now, images, labels, chosen[name])
            else:
                images = _ON_IMAGES[name](now, images, chosen[name])
        return images, labels

    return both

"""Augments training examples inside jit: policies, crop, flip, cutout, erase; mixup and cutmix.

A text such as 'crop:4,flip,mixup:0.2' selects the augmentations, which are applied in the order of
the table below. Inputs are already normalised, so 0 is the mean of the data. Random numbers are
drawn per example, except that mixup and cutmix draw one mixing ratio per batch, as in the papers.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data.dataset import normalize
from cnn_jax.errors import UserError
from cnn_jax.training.augment_policies import Policy, apply, rand_augment, trivial_augment
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.mesh import has_strips

Array = jax.Array


def crop(key: Array, images: Array, pad: float, *, in_strips: bool = False) -> Array:
    """Shifts each image by up to `pad` pixels in height and width and fills with zeros.

    `in_strips`: whether devices hold strips of images. They then exchange their borders, where
    slices at random rows would make XLA gather whole images. The result is the same.
    """
    pad = int(pad)
    n, *size, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    corners = jax.random.randint(key, (n, 2), 0, 2 * pad + 1)
    if in_strips:
        padded = _from_row(padded, corners[:, 0], size[0])
        corners = corners.at[:, 0].set(0)
    cut = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (*size, channels))  # noqa: E731
    return jax.vmap(cut)(padded, corners)


def _from_row(images: Array, first: Array, count: int) -> Array:
    """Returns `count` rows of each image from the row in `first` (N,) on, by shifts of 1, 2, 4, ...

    The slices of a shift are the same for all images, so XLA partitions them along the rows.
    """
    shift = 1
    while shift <= images.shape[1] - count:
        moved = jnp.pad(images[:, shift:], ((0, 0), (0, shift), (0, 0), (0, 0)))
        images = jnp.where((first & shift)[:, None, None, None] > 0, moved, images)
        shift *= 2
    return images[:, :count]


def flip(key: Array, images: Array, probability: float) -> Array:
    """Flips each image horizontally with the given probability."""
    chosen = jax.random.bernoulli(key, probability, (images.shape[0], 1, 1, 1))
    return jnp.where(chosen, images[:, :, ::-1], images)


def cutout(key: Array, images: Array, side: float) -> Array:
    """Zeros a square around a random pixel, clipped at the border (DeVries and Taylor, 2017)."""
    inside = _box(key, images.shape, side, side)
    return jnp.where(inside, 0, images)


def erase(key: Array, images: Array, probability: float) -> Array:
    """Fills a random rectangle with normal noise.

    From Zhong et al., "Random Erasing", 2017, section 3.2. The area of the rectangle is 2 to 33 %
    of the image, and its ratio of height to width is 0.3 to 3.3. The rectangle is clipped at the
    border instead of being drawn again until it fits.
    """
    n, height, width, _ = images.shape
    keys = jax.random.split(key, 5)
    area = jax.random.uniform(keys[0], (n,), minval=0.02, maxval=0.33) * height * width
    ratio = jnp.exp(jax.random.uniform(keys[1], (n,), minval=jnp.log(0.3), maxval=jnp.log(3.3)))
    inside = _box(keys[2], images.shape, jnp.sqrt(area * ratio), jnp.sqrt(area / ratio))
    chosen = jax.random.bernoulli(keys[3], probability, (n, 1, 1, 1))
    noise = jax.random.normal(keys[4], images.shape, images.dtype)
    return jnp.where(inside & chosen, noise, images)


def mixup(key: Array, inputs: Array, targets: Array, alpha: float) -> tuple[Array, Array]:
    """Mixes each example with another at a ratio from Beta(alpha, alpha) (Zhang et al., 2018)."""
    share = jax.random.beta(key, alpha, alpha)
    mix = lambda a: share.astype(a.dtype) * a + (1 - share).astype(a.dtype) * a[::-1]  # noqa: E731
    return mix(inputs), mix(targets)


def cutmix(key: Array, images: Array, targets: Array, alpha: float) -> tuple[Array, Array]:
    """Pastes a rectangle of another example into each example (Yun et al., 2019).

    Targets are mixed in proportion to the areas.
    """
    n, height, width, _ = images.shape
    keys = jax.random.split(key)
    side = jnp.sqrt(1 - jax.random.beta(keys[0], alpha, alpha))
    inside = _box(keys[1], (1, height, width, 1), height * side, width * side)
    share = 1 - inside.mean(dtype=targets.dtype)
    mixed = share * targets + (1 - share) * targets[::-1]
    return jnp.where(inside, images[::-1], images), mixed


def _box(key: Array, shape: tuple[int, ...], height, width) -> Array:
    """Returns a bool mask (N, H, W, 1): rectangles around random pixels, clipped at the border."""
    n = shape[0]
    inside = True
    for axis, side in ((1, height), (2, width)):
        key, now = jax.random.split(key)
        centre = jax.random.randint(now, (n,), 0, shape[axis])
        low = jnp.floor(centre - side / 2 + 0.5).reshape(-1, 1)
        at = jnp.arange(shape[axis])
        along = (at >= low) & (at < low + jnp.round(jnp.asarray(side)).reshape(-1, 1))
        inside = inside & jnp.expand_dims(along, (2, 3) if axis == 1 else (1, 3))
    return inside


# name -> function of the numbers after the name
_POLICIES: dict[str, Callable[..., Policy]] = {
    'randaugment': rand_augment,
    'trivial': trivial_augment,
}
# name -> (function, default value, whether the value is a probability)
_ON_IMAGES: dict[str, tuple[Callable, float | None, bool]] = {
    'crop': (crop, None, False),
    'flip': (flip, 0.5, True),
    'cutout': (cutout, None, False),
    'erase': (erase, 0.25, True),
}
_ON_PAIRS: dict[str, tuple[Callable, float | None, bool]] = {
    'mixup': (mixup, 0.2, False),
    'cutmix': (cutmix, 1.0, False),
}
_TABLE = _ON_IMAGES | _ON_PAIRS
_NAMES = (*_TABLE, *_POLICIES)
_PIXELS = ('crop', 'cutout')


def parse(text: str, kind: str) -> dict[str, float | Policy]:
    """Parses a text: 'crop:4,flip' -> {'crop': 4.0, 'flip': 0.5}.

    Raises:
        ValueError: a name is unknown, a value is missing or out of range, or an augmentation does
            not apply to data of this kind.
    """
    chosen: dict[str, float | Policy] = {}
    for part in filter(None, text.split(',')):
        name, _, value = part.strip().partition(':')
        if name not in _NAMES or name in chosen:
            raise UserError(f'augment={text!r}: {name!r} must be one of {", ".join(_NAMES)}, once')
        if kind != 'image' and (name != 'mixup' or kind == 'text'):
            raise UserError(f'augment={text!r}: {name} does not apply to {kind} data')
        if name in _POLICIES:
            chosen[name] = _policy(text, name, value)
            continue
        _, default, is_probability = _TABLE[name]
        try:
            number = float(value) if value or default is None else default
        except ValueError:
            raise UserError(f'augment={text!r}: write a number after {name}:') from None
        if name in _PIXELS and number != int(number):
            raise UserError(f'augment={text!r}: {name} takes whole pixels, got {number:g}')
        if not 0 < number or (is_probability and number > 1):
            raise UserError(f'augment={text!r}: {number:g} is out of range for {name}')
        chosen[name] = number
    return chosen


def _policy(text: str, name: str, values: str) -> Policy:
    try:
        return _POLICIES[name](*map(int, filter(None, values.split(':'))))
    except UserError as error:
        raise UserError(f'augment={text!r}: {error}') from None
    except (ValueError, TypeError):
        raise UserError(
            f'augment={text!r}: write randaugment:2:9 (operations, strength) or trivial'
        ) from None


def mixes(chosen: dict[str, float | Policy]) -> bool:
    """Returns whether targets are mixed, so that labels must be given as distributions."""
    return bool(set(chosen) & set(_ON_PAIRS))


def make_augment(
    config: TrainConfig, kind: str, *, mean: Sequence[float] = (), std: Sequence[float] = ()
) -> Callable[[Array, Array, Array], tuple]:
    """Returns the function (key, inputs, targets) -> (inputs, targets) for `config.augment`.

    Inputs are normalised, (N, H, W, C) for images. Targets are (N, classes) if `mixes`; otherwise
    they may be anything and are returned unchanged. With both mixup and cutmix, each step draws
    one of the two at random.

    `mean` and `std` are those of the data set's normalisation, from which the policies recover
    images in [0, 1].
    """
    chosen = parse(config.augment, kind)
    policies = [chosen[name] for name in _POLICIES if name in chosen]
    pairs = [(_ON_PAIRS[name][0], chosen[name]) for name in _ON_PAIRS if name in chosen]
    functions = {name: function for name, (function, _, _) in _ON_IMAGES.items()}
    functions['crop'] = functools.partial(crop, in_strips=has_strips(config.mesh))

    def augment(key, inputs, targets):
        for i, policy in enumerate(policies):
            images = inputs * np.float32(std or 1) + np.float32(mean or 0)
            images = apply(policy, jax.random.fold_in(key, len(_NAMES) + i), images)
            inputs = normalize(images, mean=mean, std=std)
        for i, (name, function) in enumerate(functions.items()):
            if name in chosen:
                inputs = function(jax.random.fold_in(key, i), inputs, chosen[name])
        if not pairs:
            return inputs, targets
        which = jax.random.randint(jax.random.fold_in(key, len(_ON_IMAGES)), (), 0, len(pairs))
        key = jax.random.fold_in(key, len(_TABLE))
        branches = [
            lambda inputs, targets, f=f, value=value: f(key, inputs, targets, value)
            for f, value in pairs
        ]
        return jax.lax.switch(which, branches, inputs, targets)

    return augment

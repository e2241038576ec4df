"""Composes scenes of several real images, with the mask of every object, for segmentation.

A scene is a black square with one or more digits (or clothes) of a data set at random positions.
Later objects are in front of earlier ones. A pixel has the label of the object that is seen there,
class + 1, and 0 where there is none. The objects are real images; the scenes are not: no camera saw
them. Scenes of the training split use training images alone, those of the test split test images.
"""

from collections.abc import Callable

import numpy as np

from cnn_jax.data import readers
from cnn_jax.data.dataset import Split
from cnn_jax.data.readers import Parts, Place
from cnn_jax.errors import UserError

BACKGROUND = 'background'
FAINTEST = 15  # darker pixels belong to no object: the scans are noisy; `digits` begins at 15
_STREAMS = {'train': 0, 'test': 1, 'validation': 2}  # never change: they determine the scenes
_TEST_SHARE = 4  # training scenes per test scene


def of(name: str, default_size: int) -> Callable[..., Parts]:
    """Returns a reader of scenes with objects from the data set `name`."""

    def read(
        place: Place,
        *,
        size: int = default_size,
        objects: int = 4,
        count: int = 4000,
        seed: int = 0,
    ) -> Parts:
        """Composes the scenes.

        Args:
            place: the folders of the data set.
            size: height and width of a scene.
            objects: largest number of objects in a scene; the number is uniform in 1..objects.
            count: number of training scenes; there are a quarter as many test scenes.
            seed: seed of all choices.
        """
        source = readers.read_digits(place) if name == 'digits' else readers.images(name)(place)
        for option, value, least in (('count', count, _TEST_SHARE), ('seed', seed, 0)):
            if value < least:
                raise UserError(f'{option}={value}; it must be at least {least}')
        splits = {}
        for split, examples in source['splits'].items():
            n = count if split == 'train' else count // _TEST_SHARE
            key = (seed, _STREAMS[split])
            splits[split] = compose(examples, count=n, size=size, objects=objects, key=key)
        names = (BACKGROUND, *source['class_names'])
        return {'splits': splits, 'class_names': names, 'task': 'segmentation'}

    return read


def compose(examples: Split, *, count: int, size: int, objects: int, key: tuple[int, int]) -> Split:
    """Returns `count` scenes of `examples` and their masks, as a pure function of `key`.

    The random numbers are 64-bit words of Philox-4x64, whose stream NumPy guarantees (NEP 19), as
    in `order.epoch_order`.

    Args:
        examples: the objects: images uint8 (N, h, w, C), and their classes. Pixels darker than
            `FAINTEST` belong to no object.
        count: number of scenes.
        size: height and width of a scene.
        objects: largest number of objects in a scene.
        key: two numbers that determine the scenes.

    Returns:
        Inputs uint8 (count, size, size, C) and labels uint8 (count, size, size).

    Raises:
        UserError: an object is larger than a scene, or `objects` is below 1.
    """
    images = np.asarray(examples.inputs)
    height, width, channels = images.shape[1:]
    if size < max(height, width):
        raise UserError(f'size={size}; it must be at least {max(height, width)}, as the objects')
    if objects < 1:
        raise UserError(f'objects={objects}; it must be at least 1')
    words = np.random.Philox(key=np.array(key, np.uint64)).random_raw(count * (1 + 3 * objects))
    words = words.reshape(count, 1 + 3 * objects)
    numbers = 1 + _choose(words[:, 0], objects)
    chosen = _choose(words[:, 1::3], len(images))
    tops = _choose(words[:, 2::3], size - height + 1)
    lefts = _choose(words[:, 3::3], size - width + 1)
    scenes = np.zeros((count, size, size, channels), np.uint8)
    masks = np.zeros((count, size, size), np.uint8)
    for scene, mask, n, *where in zip(scenes, masks, numbers, chosen, tops, lefts, strict=True):
        for row, top, left in list(zip(*where, strict=True))[:n]:
            here = slice(top, top + height), slice(left, left + width)
            seen = images[row].max(-1) >= FAINTEST
            scene[here][seen] = images[row][seen]
            mask[here][seen] = examples.labels[row] + 1
    return Split(scenes, masks)


def _choose(words: np.ndarray, n: int) -> np.ndarray:
    """Maps 64-bit words to numbers in 0..n-1; the difference from uniform is below n / 2**64."""
    return (words % np.uint64(n)).astype(np.int64)

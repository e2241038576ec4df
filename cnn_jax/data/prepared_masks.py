"""Reads images with masks from data sets that TFDS has prepared."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from cnn_jax.data import cache, masks
from cnn_jax.data.dataset import Split
from cnn_jax.data.prepared import Prepared
from cnn_jax.errors import UserError


def read(folder: Prepared, roles: Mapping[str, str], target: str, size: int) -> Mapping[str, Any]:
    """Returns the parts of a `Dataset` of images and masks; all are held in memory.

    Args:
        folder: the prepared data set.
        roles: {split of the data set: split of the folder}.
        target: name of the feature with the masks.
        size: height and width of the images and masks (see `masks.decode`); 0 if all already have
            the same size.

    Raises:
        UserError: `target` is not a mask, it is not clear which feature is the image, or a mask
            has another size than its image or a label outside the classes.
    """
    if size < 0:
        raise UserError(f'size={size}; it must be positive, or 0 for the size of the files')
    known = folder.features.masks()
    if target not in known:
        raise UserError(f'target={target!r} is not a mask of {folder.path}; {", ".join(known)} is')
    others = [name for name in folder.features.named('image') if name not in known]
    if len(others) != 1:
        raise UserError(
            f'{folder.path}: it is not clear which feature is the image; the features are '
            f'{folder.features.kinds}'
        )
    (image,) = others
    splits = {}
    for split, stored in roles.items():
        dtypes = {image: np.uint8, target: np.uint8}
        columns = cache.columns(folder, stored, dtypes, size)
        if columns[image].shape[:3] != columns[target].shape:
            raise UserError(
                f'{folder.path}: the images of split {stored} have shape '
                f'{columns[image].shape[1:3]}, but {target} has {columns[target].shape[1:]}'
            )
        splits[split] = Split(columns[image], columns[target])
    everything = np.concatenate([split.labels for split in splits.values()])
    names = folder.features.class_names(target) or masks.names_of(everything, str(folder.path))
    for split, found in splits.items():
        for i, mask in enumerate(found.labels):
            masks.check(mask, len(names), f'{folder.path}: {target} of example {i} of {split}')
    return {'splits': splits, 'class_names': names, 'task': 'segmentation'}

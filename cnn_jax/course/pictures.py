"""Pictures for the notebooks: read a photograph, show arrays side by side, curves and bars."""

import os
from collections.abc import Sequence

import numpy as np

from cnn_jax.errors import UserError, optional_packages

with optional_packages('train'):
    import matplotlib.pyplot as plt

    from cnn_jax.data import images


def photo(path: str | os.PathLike = '', size: int = 160) -> np.ndarray:
    """Reads an image of any mode and size.

    Args:
        path: an image file. If it is empty or cannot be read, a sample of scikit-learn is taken, in
            the second case with a printed line that says why.
        size: pixels of the longer side; larger images are scaled down.

    Returns:
        (height, width, 3) float32 in [0, 1].
    """
    if path:
        try:
            return images.picture(path, size)
        except UserError as error:
            print(f'{error}. The sample picture takes its place.')
    return images.picture('china', size)


def show(pictures: dict[str, np.ndarray], height: float = 2.4, width: float = 3.0) -> None:
    """Shows arrays side by side under their names.

    (height, width) arrays are grey, dark for the smallest number and bright for the largest, or
    half bright if all numbers are equal. (height, width, 3) arrays are colours; values outside
    [0, 1] are clipped. The arguments `height` and `width` are inches per picture, with its title.
    """
    figure, axes = plt.subplots(
        1, len(pictures), figsize=(width * len(pictures), height), layout='constrained'
    )
    for axis, (name, picture) in zip(np.atleast_1d(axes), pictures.items(), strict=True):
        picture = np.asarray(picture, np.float32)
        low, high = picture.min(), picture.max()
        if low == high:
            low, high = low - 1, high + 1
        shown = picture if picture.ndim == 2 else picture.clip(0, 1)
        axis.imshow(shown, cmap='gray', vmin=low, vmax=high)  # the limits are for grey alone
        axis.set_title(name, fontsize=10)
        axis.set(xticks=[], yticks=[])
    plt.show()
    plt.close(figure)


def curves(lines: dict[str, tuple[Sequence, Sequence]], xlabel: str, ylabel: str) -> None:
    """Draws (x, y) pairs as lines under their names."""
    figure, axis = plt.subplots(figsize=(5, 2.6), layout='constrained')
    for name, (x, y) in lines.items():
        axis.plot(x, y, label=name)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend()
    plt.show()
    plt.close(figure)


def bars(labels: Sequence[str], groups: dict[str, Sequence[float]], height: float = 0.2) -> None:
    """Draws a panel of horizontal bars for each group, the first label at the top."""
    figure, axes = plt.subplots(
        1,
        len(groups),
        figsize=(4 * len(groups), 0.6 + height * len(labels)),
        sharey=True,
        layout='constrained',
    )
    for axis, (name, values) in zip(np.atleast_1d(axes), groups.items(), strict=True):
        axis.barh(range(len(labels)), values)
        axis.set_title(name, fontsize=10)
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    plt.show()
    plt.close(figure)

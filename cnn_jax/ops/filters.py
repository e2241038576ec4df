"""Classic fixed filters of image processing, and functions to apply them to every channel.

A filter is a float32 array with one axis per spatial axis. Convolution here does not flip it: the
array slides over the image as written (see `cnn_jax.conv`).

    kernel = as_kernel(gaussian(5, 1.0), channels=3)
    blurred = cnn_jax.conv(image, kernel, groups=3, padding_mode='reflect')

Source of the coefficients: Gonzalez & Woods, "Digital Image Processing", chapter 3 (box, Gaussian,
Laplacian, sharpening and Sobel filters); `emboss` is the common directional difference.
"""

import operator
from collections.abc import Callable

import numpy as np

from cnn_jax.errors import UserError

Filter = np.ndarray


def identity() -> Filter:
    """Returns the (3, 3) filter that leaves the image unchanged."""
    return _filter([[0, 0, 0], [0, 1, 0], [0, 0, 0]])


def edge(neighbours: int = 8) -> Filter:
    """Returns the (3, 3) negated Laplacian over 4 or 8 neighbours; 0 where the image is flat."""
    if neighbours == 8:
        return _filter([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]])
    if neighbours == 4:
        return _filter([[0, -1, 0], [-1, 4, -1], [0, -1, 0]])
    raise UserError(f'neighbours must be 4 or 8, got {neighbours!r}')


def blur(size: int = 3) -> Filter:
    """Returns the (size, size) filter that averages the window."""
    size = _odd(size)
    return np.full((size, size), 1 / size**2, np.float32)


def sharpen() -> Filter:
    """Returns the (3, 3) filter identity() + edge(4)."""
    return identity() + edge(4)


def sobel_x() -> Filter:
    """Returns the (3, 3) derivative along columns, smoothed along rows: vertical edges."""
    return _filter([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])


def sobel_y() -> Filter:
    """Returns the (3, 3) derivative along rows, smoothed along columns: horizontal edges."""
    return np.ascontiguousarray(sobel_x().T)


def gaussian(size: int = 5, sigma: float = 1.0) -> Filter:
    """Returns exp(-r^2 / (2 sigma^2)), (size, size), scaled to sum 1; sigma is in pixels."""
    size = _odd(size)
    if not sigma > 0:
        raise UserError(f'sigma must be > 0, got {sigma!r}')
    line = np.exp(-0.5 * ((np.arange(size) - size // 2) / sigma) ** 2)
    line /= line.sum()
    return np.outer(line, line).astype(np.float32)


def emboss() -> Filter:
    """Returns a (3, 3) filter with light from the upper left; flat areas keep their value."""
    return _filter([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])


FILTERS: dict[str, Callable[[], Filter]] = {
    'identity': identity,
    'edge': edge,
    'blur': blur,
    'sharpen': sharpen,
    'sobel_x': sobel_x,
    'sobel_y': sobel_y,
    'gaussian': gaussian,
    'emboss': emboss,
}


def as_kernel(filter: Filter, channels: int) -> np.ndarray:
    """Returns a depthwise kernel that applies `filter` to each channel separately.

    Args:
        filter: (*window), with one axis per spatial axis.
        channels: number of input features; pass it to `conv` as `groups` too.

    Returns:
        (*window, 1, channels), with the dtype of `filter`.

    Raises:
        ValueError: `filter` has no axis or `channels` is not a positive integer.
    """
    filter = np.asarray(filter)
    if filter.ndim == 0 or filter.size == 0:
        raise UserError(
            f'filter must have one non-empty axis per spatial axis, got shape {filter.shape}'
        )
    if isinstance(channels, bool) or operator.index(channels) < 1:
        raise UserError(f'channels must be a positive integer, got {channels!r}')
    return np.repeat(filter[..., None, None], channels, axis=-1)


def separate(filter: Filter) -> tuple[Filter, Filter]:
    """Returns (h, 1) and (1, w) filters whose product is `filter` (h, w).

    Two cheap convolutions then replace one: h + w multiplications per output instead of h w.

    Raises:
        ValueError: `filter` does not have two axes, or its rank is not 1, so it is not separable.
    """
    filter = np.asarray(filter, np.float32)
    if filter.ndim != 2:
        raise UserError(f'filter must have two axes, got shape {filter.shape}')
    left, values, right = np.linalg.svd(filter.astype(np.float64))
    rank = int((values > 1e-6 * values[0]).sum()) if values[0] > 0 else 0
    if rank != 1:
        raise UserError(f'filter of shape {filter.shape} has rank {rank}: it cannot be separated')
    column, row = left[:, 0] * np.sqrt(values[0]), right[0] * np.sqrt(values[0])
    sign = 1.0 if column[np.argmax(np.abs(column))] > 0 else -1.0
    return _filter(sign * column[:, None]), _filter(sign * row[None])


def _filter(rows) -> Filter:
    return np.asarray(rows, np.float32)


def _odd(size: int) -> int:
    if isinstance(size, bool) or operator.index(size) < 1 or size % 2 == 0:
        raise UserError(f'size must be odd and >= 1, so that the filter has a centre; got {size!r}')
    return operator.index(size)

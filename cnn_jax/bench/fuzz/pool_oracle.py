"""Reference pooling in float64 NumPy, from explicit lists of windows.

Along one axis, a window is a list of input positions in the order in which they are visited.
Positions outside the input are padding. Everything else follows from these lists.
"""

import fractions
import itertools
import math

import numpy as np


def axis_windows(n, window, stride, padding, dilation, ceil_mode):
    """Returns the windows along an axis of size n with (lo, hi) padding."""
    lo, hi = padding
    span = (window - 1) * dilation + 1
    windows = []
    for start in itertools.count(-lo, stride):
        end = start + span
        if ceil_mode:
            # Add a window while the previous one left part of the padded input unread, but never
            # one that starts in the padding after the input.
            exists = end - stride < n + hi and start < n
        else:
            exists = end <= n + hi
        if not exists:
            return windows
        windows.append([start + t * dilation for t in range(window)])


def adaptive_windows(n, m):
    fraction = fractions.Fraction
    return [
        list(range(math.floor(fraction(i * n, m)), math.ceil(fraction((i + 1) * n, m))))
        for i in range(m)
    ]


def planes(size, axes):
    """Returns, for each output position, the flat plane positions that its window visits.

    Both are in row-major order; -1 stands for padding.
    """
    result = []
    for along in itertools.product(*axes):
        flat = []
        for at in itertools.product(*along):
            inside = all(0 <= i < n for i, n in zip(at, size, strict=True))
            flat.append(int(np.ravel_multi_index(at, size)) if inside else -1)
        result.append(flat)
    return result


def flatten(x, ndim):
    """Returns x as float64 of shape (N, positions, C)."""
    x = np.asarray(x, np.float64)
    return x.reshape(-1, math.prod(x.shape[-1 - ndim : -1]), x.shape[-1])


def max_pool(x, axes):
    """Returns maxima and flat indices (-1 if a window sees only padding), both (N, outputs, C)."""
    size = x.shape[-1 - len(axes) : -1]
    x = flatten(x, len(axes))
    windows = planes(size, axes)
    y = np.full((len(x), len(windows), x.shape[-1]), -np.inf)
    indices = np.full(y.shape, -1)
    for o, window in enumerate(windows):
        for n in range(len(x)):
            for c in range(x.shape[-1]):
                for at in window:
                    if at >= 0:
                        value = x[n, at, c]
                        if indices[n, o, c] < 0 or value > y[n, o, c] or np.isnan(value):
                            y[n, o, c], indices[n, o, c] = value, at
    return y, indices


def take(t, indices, ndim):
    """Returns the tangent of the maxima for a tangent t of x."""
    t = flatten(t, ndim)
    taken = np.take_along_axis(t, np.maximum(indices, 0), axis=1)
    return np.where(indices < 0, 0, taken)


def put(dy, indices, shape, ndim):
    """Returns the gradient of x for a gradient dy of the maxima."""
    dx = np.zeros(flatten(np.zeros(shape), ndim).shape)
    dy = np.asarray(dy, np.float64).reshape(indices.shape)
    for n, o, c in np.ndindex(*indices.shape):
        if indices[n, o, c] >= 0:
            dx[n, indices[n, o, c], c] += dy[n, o, c]
    return dx.reshape(shape)


def sum_pool(x, axes):
    size = x.shape[-1 - len(axes) : -1]
    x = flatten(x, len(axes))
    windows = planes(size, axes)
    return np.stack([x[:, [at for at in w if at >= 0]].sum(1) for w in windows], 1)


def sum_pool_gradient(dy, axes, shape):
    size = shape[-1 - len(axes) : -1]
    dx = np.zeros(flatten(np.zeros(shape), len(axes)).shape)
    windows = planes(size, axes)
    dy = np.asarray(dy, np.float64).reshape(len(dx), len(windows), shape[-1])
    for o, window in enumerate(windows):
        for at in window:
            if at >= 0:
                dx[:, at] += dy[:, o]
    return dx.reshape(shape)


def divisors(size, axes, padding, count_include_pad=True, divisor_override=None):
    """Returns the divisor of each window, (outputs, 1), or the override as a scalar."""
    if divisor_override is not None:
        return np.array(float(divisor_override))
    counts = []
    for along in itertools.product(*axes):
        count = 1
        for window, n, (lo, hi) in zip(along, size, padding, strict=True):
            first, end = (-lo, n + hi) if count_include_pad else (0, n)
            count *= sum(first <= at < end for at in window)
        counts.append(float(count))
    return np.array(counts)[:, None]

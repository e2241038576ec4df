"""Exercises of chapter 4, pooling and its gradients."""

from collections.abc import Callable

import jax
import numpy as np

import cnn_jax
from cnn_jax.course.arrays import Array, whole_numbers
from cnn_jax.course.exercise import Exercise


def _max_pool(x: Array, k: int, stride: int, **options) -> Array:
    return np.asarray(cnn_jax.max_pool(x[..., None], (k, k), stride, **options))[..., 0]


max_pool = Exercise(
    name='max_pool',
    right=_max_pool,
    cases=lambda: [
        (whole_numbers(4, 4), 2, 2),
        (whole_numbers(5, 7, seed=1), 3, 2),
        (-1 - np.abs(whole_numbers(4, 5, seed=2)), 2, 1),
        (whole_numbers(5, 5, seed=3), 2, 2),
    ],
    verified='equal to cnn_jax.max_pool, also for windows that overlap and for negative numbers.',
    shape='Each axis has (n - k) // stride + 1 places, as for a convolution.',
    wrong=(
        (
            lambda x, k, s: np.maximum(_max_pool(x, k, s), 0),
            'windows of negative numbers give 0. Begin with -inf, or with the first element, '
            'instead of zeros.',
        ),
        (
            lambda x, k, s: _max_pool(x, k, 1),
            'the windows move by one pixel: place i begins at stride * i.',
        ),
        (
            lambda x, k, s: _max_pool(x, k, k),
            'the windows move by k. That is the usual choice, but the stride is an argument.',
        ),
        (
            lambda x, k, s: _max_pool(x, k, s, ceil_mode=True),
            'windows that hang over the end are kept (PyTorch: ceil_mode). Keep those that lie '
            'inside: (n - k) // stride + 1.',
        ),
        (
            lambda x, k, s: _max_pool(x, k, s)[:-1, :-1],
            'the last place is missing on each axis: there are (n - k) // stride + 1.',
        ),
        (
            lambda x, k, s: _avg_pool(x, k, s, 0, True),
            'this is the mean of each window.',
        ),
        (
            lambda x, k, s: -_max_pool(-x, k, s),
            'this is the minimum of each window.',
        ),
    ),
)


def _max_pool_grad(x: Array, dy: Array, k: int, stride: int) -> Array:
    pull_back = jax.vjp(lambda x: cnn_jax.max_pool(x, (k, k), stride), x[..., None])[1]
    return np.asarray(pull_back(dy[..., None])[0])[..., 0]


def _shared(share: Callable[[Array], Array]):
    """Returns a gradient that gives each element of a window share(window) of the window's dy."""

    def gradient(x: Array, dy: Array, k: int, stride: int) -> Array:
        dx = np.zeros(x.shape)
        for i, j in np.ndindex(*dy.shape):
            here = np.s_[stride * i : stride * i + k, stride * j : stride * j + k]
            dx[here] += share(x[here]) * dy[i, j]
        return dx

    return gradient


def _last_winner(window: Array) -> Array:
    backwards = window[::-1, ::-1]
    return _first_winner(backwards)[::-1, ::-1]


def _first_winner(window: Array) -> Array:
    return (np.arange(window.size) == window.argmax()).reshape(window.shape)


def _overwritten(x: Array, dy: Array, k: int, stride: int) -> Array:
    dx = np.zeros(x.shape)
    for i, j in np.ndindex(*dy.shape):
        window = x[stride * i : stride * i + k, stride * j : stride * j + k]
        a, b = np.unravel_index(window.argmax(), window.shape)
        dx[stride * i + a, stride * j + b] = dy[i, j]
    return dx


def _in_the_corner(x: Array, dy: Array, k: int, stride: int) -> Array:
    dx = np.zeros(x.shape)
    for i, j in np.ndindex(*dy.shape):
        window = x[stride * i : stride * i + k, stride * j : stride * j + k]
        dx[np.unravel_index(window.argmax(), window.shape)] += dy[i, j]
    return dx


max_pool_grad = Exercise(
    name='max_pool_grad',
    right=_max_pool_grad,
    cases=lambda: [
        (whole_numbers(4, 4), whole_numbers(2, 2, seed=1), 2, 2),
        (np.maximum(whole_numbers(5, 7, seed=2), 0), whole_numbers(2, 3, seed=3), 3, 2),
        (np.zeros((3, 4), np.float32), whole_numbers(2, 3, seed=4), 2, 1),
    ],
    verified='equal to the gradient of cnn_jax.max_pool, with overlapping windows and with ties.',
    shape='The gradient has the shape of x.',
    wrong=(
        (
            _shared(lambda window: window == window.max()),
            'where several elements are the largest, each gets all of dy. The sum over a window '
            'must stay dy: give it to the first one.',
        ),
        (
            _shared(lambda window: (window == window.max()) / (window == window.max()).sum()),
            'elements that are equally large share dy. That is a valid choice, and jnp.max makes '
            'it; here, as in PyTorch, the first one gets everything.',
        ),
        (
            _shared(_last_winner),
            'of several largest elements, the last one gets dy; here it is the first, in '
            'row-major order. Replace a maximum only by a larger number: >, not >=.',
        ),
        (
            _overwritten,
            'an element that wins in two windows keeps the gradient of the last: add with +=.',
        ),
        (
            _in_the_corner,
            'argmax counts within the window. Add where the window begins: stride * i and stride '
            '* j.',
        ),
        (
            _shared(lambda window: np.full(window.shape, 1 / window.size)),
            'all elements of a window share dy, which is the gradient of a mean. Moving an '
            'element that is not the largest changes nothing.',
        ),
        (
            lambda x, dy, k, s: _max_pool_grad(x, np.ones_like(dy), k, s),
            'the winners get 1 instead of dy: multiply by the gradient that comes from above.',
        ),
    ),
)


def _avg_pool(x: Array, k: int, stride: int, padding: int, count_include_pad: bool) -> Array:
    y = cnn_jax.avg_pool(x[..., None], (k, k), stride, padding, count_include_pad=count_include_pad)
    return np.asarray(y)[..., 0]


def _divided(x: Array, k: int, stride: int, padding: int, divisor: int) -> Array:
    y = cnn_jax.avg_pool(x[..., None], (k, k), stride, padding, divisor_override=divisor)
    return np.asarray(y)[..., 0]


def _without_zeros(x: Array, k: int, stride: int, padding: int, count_include_pad: bool) -> Array:
    if count_include_pad:
        return _avg_pool(x, k, stride, padding, True)
    filled = _divided((x != 0).astype(np.float32), k, stride, padding, 1)
    return _divided(x, k, stride, padding, 1) / np.maximum(filled, 1)


def _of_border(x: Array, k: int, stride: int, padding: int, count_include_pad: bool) -> Array:
    return _avg_pool(np.pad(x, padding, mode='edge'), k, stride, 0, True)


avg_pool = Exercise(
    name='avg_pool',
    right=_avg_pool,
    cases=lambda: [
        (whole_numbers(4, 4), 2, 2, 0, True),
        (whole_numbers(4, 5, seed=1), 3, 1, 1, True),
        (whole_numbers(4, 5, seed=1), 3, 1, 1, False),
        (whole_numbers(5, 6, seed=2), 3, 2, 1, False),
    ],
    verified='equal to cnn_jax.avg_pool, with both divisors.',
    shape='Each axis has (n + 2 padding - k) // stride + 1 places.',
    wrong=(
        (
            lambda x, k, s, p, count: _avg_pool(x, k, s, p, True),
            'the divisor is always k * k. With count_include_pad=False, a window at the border '
            'divides by the number of its pixels that lie in the picture.',
        ),
        (
            lambda x, k, s, p, count: _avg_pool(x, k, s, p, False),
            'the divisor never counts the padding. With count_include_pad=True it is k * k '
            'everywhere.',
        ),
        (
            lambda x, k, s, p, count: _avg_pool(x, k, s, p, not count),
            'the two divisors are exchanged: count_include_pad=True divides by k * k.',
        ),
        (
            _without_zeros,
            'the divisor counts elements that are not zero, but a picture may contain zeros. '
            'Count positions: pool a picture of ones, padded in the same way.',
        ),
        (
            lambda x, k, s, p, count: _divided(x, k, s, p, 1),
            'this is the sum of each window: divide.',
        ),
        (
            lambda x, k, s, p, count: _divided(x, k, s, p, k),
            'the divisor is k; a window has k * k elements.',
        ),
        (
            _of_border,
            "the padding repeats the border (np.pad with mode='edge'). Here it is zeros, and "
            'count_include_pad says whether they count.',
        ),
        (
            lambda x, k, s, p, count: _avg_pool(x, k, 1, p, count),
            'the windows move by one pixel: place i begins at stride * i.',
        ),
    ),
)


def _pool_kernel(k: int, channels: int) -> Array:
    return np.broadcast_to(np.eye(channels) / k**2, (k, k, channels, channels))


def _one_tap(k: int, channels: int) -> Array:
    w = np.zeros((k, k, channels, channels))
    w[0, 0] = np.eye(channels)
    return w


pool_kernel = Exercise(
    name='pool_kernel',
    right=_pool_kernel,
    cases=lambda: [(2, 3), (3, 2), (3, 1)],
    verified='the kernel with which a convolution is average pooling.',
    shape='A kernel is (window, window, input channels, output channels).',
    wrong=(
        (
            lambda k, channels: np.full((k, k, channels, channels), 1 / k**2),
            'every output channel sums over all input channels. Pooling keeps channels apart: '
            'w[:, :, c, o] is zero unless c = o.',
        ),
        (
            lambda k, channels: np.full((k, k, channels, channels), 1 / (k**2 * channels)),
            'this takes the mean over the channels as well. Pooling keeps channels apart: w[:, :, '
            'c, o] is zero unless c = o.',
        ),
        (
            lambda k, channels: _pool_kernel(k, channels) * k**2,
            'this sums the window. Divide by its k * k elements.',
        ),
        (
            lambda k, channels: _pool_kernel(k, channels) * k,
            'the divisor is k; a window has k * k elements.',
        ),
        (
            lambda k, channels: np.full((k, k, 1, channels), 1 / k**2),
            'this is a depthwise kernel, which needs groups=channels. It computes the same with '
            'fewer weights; the exercise asks for the one without groups.',
        ),
        (
            lambda k, channels: _pool_kernel(k, channels).transpose(2, 3, 0, 1),
            'the channels come first, as in PyTorch. Here the window comes first: (k, k, in, out).',
        ),
        (
            _one_tap,
            'only the first element of the window counts: this is a stride without a mean.',
        ),
    ),
)

"""Exercises of chapter 3, the gradients of a convolution."""

from collections.abc import Callable

import jax
import numpy as np

import cnn_jax
from cnn_jax.course.arrays import Array, conv, traced_conv, whole_numbers
from cnn_jax.course.exercise import Case, Exercise

Scalar = Callable[[Array], float]


def _each(x: Array, derivative: Callable[[Array], float]) -> Array:
    """Calls `derivative` with an array that is 1 at one element of x, for each element."""
    x = np.asarray(x, np.float64)
    rows = np.eye(x.size).reshape(x.size, *x.shape)
    return np.array([derivative(row) for row in rows]).reshape(x.shape)


def _central(f: Scalar, x: Array, eps: float) -> Array:
    return _each(x, lambda one: (f(x + eps * one) - f(x - eps * one)) / (2 * eps))


def _accumulated(f: Scalar, x: Array, eps: float) -> Array:
    """Leaves each element at x - eps, as a loop does that forgets to restore it."""
    moved, g = np.array(x, np.float64), np.zeros(x.shape)
    for i in np.ndindex(*x.shape):
        moved[i] = x[i] + eps
        above = f(moved)
        moved[i] = x[i] - eps
        g[i] = (above - f(moved)) / (2 * eps)
    return g


def sum_of_cubes(x: Array) -> float:
    return float((x**3).sum())


def product(x: Array) -> float:
    return float(x.prod())


finite_difference = Exercise(
    name='finite_difference',
    right=_central,
    cases=lambda: [
        (sum_of_cubes, np.array([1.0, 2.0, -1.0]), 0.1),
        (product, np.array([[1.0, 2.0], [3.0, -2.0]]), 0.1),
        (product, np.array([2.0, 3.0]), 0.01),
    ],
    verified='central differences of two functions, in one and two dimensions.',
    shape='One derivative per element, so the shape of x.',
    wrong=(
        (
            lambda f, x, eps: _each(x, lambda one: (f(x + eps * one) - f(x)) / eps),
            'these are forward differences, whose error shrinks with eps only. The central ones, '
            '(f(x + eps) - f(x - eps)) / (2 eps), have an error of eps^2.',
        ),
        (
            lambda f, x, eps: _each(x, lambda one: (f(x) - f(x - eps * one)) / eps),
            'these are backward differences, whose error shrinks with eps only. The central ones, '
            '(f(x + eps) - f(x - eps)) / (2 eps), have an error of eps^2.',
        ),
        (
            lambda f, x, eps: 2 * _central(f, x, eps),
            'twice too large: from x - eps to x + eps it is 2 eps.',
        ),
        (
            lambda f, x, eps: 2 * eps * _central(f, x, eps),
            'this is the change of f. Divide it by the distance, 2 eps.',
        ),
        (
            _accumulated,
            'the elements moved before stay moved. Put each back before the next, or work on a '
            'fresh copy.',
        ),
        (
            lambda f, x, eps: (f(x + eps) - f(x - eps)) / (2 * eps),
            'all elements are moved together, which gives one number. Move one at a time.',
        ),
        (
            lambda f, x, eps: -_central(f, x, eps),
            'the sign is wrong: f(x + eps) - f(x - eps).',
        ),
    ),
)


def _pad(x: Array, *amounts: int) -> Array:
    return np.pad(x, [(n, n) for n in amounts])


def _filter_grad(x: Array, dy: Array) -> Array:
    w = np.zeros([n - m + 1 for n, m in zip(x.shape, dy.shape, strict=True)], np.float32)
    return np.asarray(jax.vjp(lambda w: traced_conv(x, w), w)[1](dy)[0])


def _last_place(x: Array, dy: Array) -> Array:
    return x[dy.shape[0] - 1 :, dy.shape[1] - 1 :] * dy[-1, -1]


filter_grad = Exercise(
    name='filter_grad',
    right=_filter_grad,
    cases=lambda: [
        (whole_numbers(3, 4), whole_numbers(2, 2, seed=1)),
        (whole_numbers(6, 5, seed=2), whole_numbers(4, 3, seed=3)),
        (whole_numbers(5, 7, seed=4), whole_numbers(5, 5, seed=5)),
    ],
    verified='equal to the gradient that JAX derives from cnn_jax.conv, for three sizes.',
    shape='The gradient has the shape of w. From y of n - k + 1 follows k = n - m + 1.',
    wrong=(
        (
            lambda x, dy: conv(x, dy[::-1, ::-1]),
            'dy is flipped. Nothing is: dw[k, l] is the sum of x[i + k, j + l] dy[i, j].',
        ),
        (
            lambda x, dy: _filter_grad(x, dy)[::-1, ::-1],
            'the result is flipped: element (0, 0) of w meets the upper left pixel of each window.',
        ),
        (
            lambda x, dy: _filter_grad(x, dy) / dy.size,
            'this is the mean over the places. Each place uses the same w, so their gradients add.',
        ),
        (
            _last_place,
            'only the last place counts: add the places up with +=.',
        ),
        (
            lambda x, dy: conv(x, dy, 'SAME'),
            'the result has the size of x; it must have that of w. The sum runs over all places '
            'of dy, without padding.',
        ),
        (
            lambda x, dy: conv(_pad(x, dy.shape[0] - 1, dy.shape[1] - 1), dy),
            'x is padded here. That belongs to the gradient of x; for w, dy stays inside x.',
        ),
        (
            lambda x, dy: _filter_grad(x, dy).T,
            'rows and columns are exchanged.',
        ),
    ),
)


def _input_grad(dy: Array, w: Array) -> Array:
    x = np.zeros([m + k - 1 for m, k in zip(dy.shape, w.shape, strict=True)], np.float32)
    return np.asarray(jax.vjp(lambda x: traced_conv(x, w), x)[1](dy)[0])


def _full(dy: Array, w: Array, extra: int = 0) -> Array:
    return conv(_pad(dy, *(k - 1 + extra for k in w.shape)), w)


input_grad = Exercise(
    name='input_grad',
    right=_input_grad,
    cases=lambda: [
        (whole_numbers(2, 3), whole_numbers(2, 2, seed=1)),
        (whole_numbers(4, 5, seed=2), whole_numbers(3, 2, seed=3)),
        (whole_numbers(1, 1, seed=4), whole_numbers(2, 4, seed=5)),
    ],
    verified='equal to the gradient that JAX derives from cnn_jax.conv, for three sizes.',
    shape='The gradient has the shape of x: n = m + k - 1.',
    wrong=(
        (
            _full,
            'the kernel is not flipped. Pixel j lies under w[k] in the window that begins at j - '
            'k, so k runs backwards.',
        ),
        (
            lambda dy, w: _full(dy, w[::-1]),
            'the kernel is flipped along rows only: flip both axes.',
        ),
        (
            lambda dy, w: _full(dy, w[:, ::-1]),
            'the kernel is flipped along columns only: flip both axes.',
        ),
        (
            lambda dy, w: conv(dy, w[::-1, ::-1], 'SAME'),
            'the result has the size of dy. x is larger by k - 1: pad dy with k - 1 zeros on both '
            'sides.',
        ),
        (
            lambda dy, w: _full(dy, w[::-1, ::-1], extra=1),
            'dy is padded by k, so the result is too large. A window that overlaps dy in one '
            'pixel begins k - 1 before it.',
        ),
        (
            lambda dy, w: _input_grad(dy, w) / w.size,
            'this is a mean. A pixel counts in every window that covers it, so the gradients add.',
        ),
        (
            lambda dy, w: np.pad(dy * w[0, 0], [(0, k - 1) for k in w.shape]),
            'only w[0, 0] is used: each pixel lies in up to k x k windows, under another weight '
            'in each.',
        ),
    ),
)


def _strided_grad(dy: Array, w: Array, stride: int, n: int) -> Array:
    x = np.zeros(n, np.float32)
    return np.asarray(jax.vjp(lambda x: traced_conv(x, w, strides=stride), x)[1](dy)[0])


def _stored(dy: Array, w: Array, stride: int, n: int) -> Array:
    dx = np.zeros(n)
    for i, g in enumerate(dy):
        dx[stride * i : stride * i + len(w)] = g * w
    return dx


def _fitted(dx: Array, n: int) -> Array:
    return np.pad(dx, (0, max(n - len(dx), 0)))[:n]


strided_input_grad = Exercise(
    name='strided_input_grad',
    right=_strided_grad,
    cases=lambda: [
        (whole_numbers(3, seed=7), whole_numbers(3, seed=8), 2, 7),
        (whole_numbers(3, seed=1), whole_numbers(3, seed=2), 2, 8),
        (whole_numbers(2, seed=3), whole_numbers(2, seed=4), 3, 6),
        (whole_numbers(4, seed=5), whole_numbers(3, seed=6), 1, 6),
    ],
    verified='equal to the gradient that JAX derives from cnn_jax.conv, also where the last '
    'pixels lie in no window.',
    shape='The gradient has the shape of x, n. It does not follow from dy: several n give the '
    'same number of outputs.',
    wrong=(
        (
            _stored,
            'where two windows overlap, the second replaces the first: add with +=.',
        ),
        (
            lambda dy, w, s, n: _strided_grad(dy, w[::-1], s, n),
            'the kernel is flipped. If you write dy[i] w[k] to position s i + k, nothing is '
            'flipped; if you read, as a convolution, it is.',
        ),
        (
            lambda dy, w, s, n: _fitted(_strided_grad(dy, w, 1, len(dy) + len(w) - 1), n),
            'the windows move by one pixel: window i begins at stride * i.',
        ),
        (
            lambda dy, w, s, n: _strided_grad(dy, w, s, (len(dy) - 1) * s + len(w)),
            'the result ends with the last window. x can be longer; pixels in no window have the '
            'gradient 0.',
        ),
        (
            lambda dy, w, s, n: _fitted(np.convolve(np.repeat(dy, s), w), n),
            'dy is repeated. Between two outputs belong stride - 1 zeros: no window begins there.',
        ),
        (
            lambda dy, w, s, n: _strided_grad(dy, w, s, n) / len(w),
            'this is a mean. A pixel counts in every window that covers it, so the gradients add.',
        ),
    ),
)


def _layer_grads(x: Array, w: Array, dy: Array) -> tuple[Array, Array, Array]:
    def layer(x, w, b):
        return cnn_jax.conv(x, w, padding='VALID', precision='highest') + b

    b = np.zeros(w.shape[-1], np.float32)
    dx, dw, db = jax.vjp(layer, x, w, b)[1](dy)
    return np.asarray(dx), np.asarray(dw), np.asarray(db)


def _changed(change: Callable[..., Array], which: int):
    """Returns layer_grads with another result at position `which`."""

    def layer_grads(x: Array, w: Array, dy: Array):
        grads = list(_layer_grads(x, w, dy))
        grads[which] = change(x, w, dy)
        return tuple(grads)

    return layer_grads


def _layer_cases() -> list[Case]:
    return [
        (whole_numbers(2, 4, 1), whole_numbers(2, 1, 2, seed=1), whole_numbers(2, 3, 2, seed=2)),
        (whole_numbers(3, 7, 2), whole_numbers(3, 2, 2, seed=3), whole_numbers(3, 5, 2, seed=4)),
        (whole_numbers(2, 6, 3), whole_numbers(1, 3, 4, seed=5), whole_numbers(2, 6, 4, seed=6)),
    ]


layer_grads = Exercise(
    name='layer_grads',
    right=_layer_grads,
    cases=_layer_cases,
    verified='dx, dw and db equal those that JAX derives, for several channels and examples.',
    shape='Each gradient has the shape of its array: dx that of x, dw that of w, db (o,).',
    wrong=(
        (
            _changed(lambda x, w, dy: _layer_grads(x, w, dy)[1] / len(x), 1),
            'dw is the mean over the batch. The loss decides whether to average, and dy carries '
            'that already; here examples add.',
        ),
        (
            _changed(lambda x, w, dy: _layer_grads(x[-1:], w, dy[-1:])[1], 1),
            'dw is that of the last example alone: sum over the batch, too.',
        ),
        (
            _changed(lambda x, w, dy: _layer_grads(x, w, dy)[1][::-1], 1),
            'dw is reversed along the window: dw[k] is the sum of x[:, i + k] dy[:, i].',
        ),
        (
            _changed(lambda x, w, dy: dy.sum(0), 2),
            'db still has an axis of positions. The bias is added at every position, so sum over '
            'them as well.',
        ),
        (
            _changed(lambda x, w, dy: dy.mean((0, 1)), 2),
            'db is the mean of dy; it is the sum over batch and positions.',
        ),
        (
            _changed(lambda x, w, dy: _layer_grads(x, w[::-1], dy)[0], 0),
            'dx belongs to a reversed kernel: dy[:, i] w[k] goes to x[:, i + k].',
        ),
        (
            _changed(lambda x, w, dy: np.pad(dy @ w[0].T, [(0, 0), (0, len(w) - 1), (0, 0)]), 0),
            'dx contains the first element of the window only: add up over k.',
        ),
        (
            lambda x, w, dy: (*_layer_grads(x, w, dy)[:2], np.zeros(w.shape[-1])),
            'db is zero: y contains b at every position, so db is the sum of dy over batch and '
            'positions.',
        ),
    ),
)

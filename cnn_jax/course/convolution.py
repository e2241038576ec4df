"""Exercises of chapter 1, convolution by hand."""

import numpy as np

import cnn_jax
from cnn_jax.course.arrays import Array, conv, whole_numbers
from cnn_jax.course.exercise import Case, Exercise
from cnn_jax.ops import filters


def _conv_cases() -> list[Case]:
    return [
        (whole_numbers(3, 4), whole_numbers(2, 2, seed=1)),
        (whole_numbers(7, 5, seed=2), whole_numbers(3, 2, seed=3)),
        (whole_numbers(6, 9, seed=4), whole_numbers(2, 5, seed=5)),
        (whole_numbers(4, 4, seed=6), whole_numbers(4, 4, seed=7)),
    ]


def _last_tap(x: Array, w: Array) -> Array:
    return x[w.shape[0] - 1 :, w.shape[1] - 1 :] * w[-1, -1]


def _backwards(x: Array, w: Array) -> Array:
    y = sum(w[k] * np.roll(x, k, range(2)) for k in np.ndindex(*w.shape))
    return y[: x.shape[0] - w.shape[0] + 1, : x.shape[1] - w.shape[1] + 1]


def _last_left_zero(x: Array, w: Array) -> Array:
    y = conv(x, w).copy()
    y[-1], y[:, -1] = 0, 0
    return y


conv_loops = Exercise(
    name='conv_loops',
    right=conv,
    cases=_conv_cases,
    verified='equal to cnn_jax.conv for square and oblong images and windows, and for a window as '
    'large as the image.',
    shape='A window of k fits into n pixels at n - k + 1 places, on each axis.',
    wrong=(
        (
            lambda x, w: conv(x, w[::-1, ::-1]),
            'this is the mathematical convolution, with the kernel flipped. Here w[k, l] meets '
            'x[i + k, j + l]; nothing is flipped.',
        ),
        (
            lambda x, w: conv(x, w.T),
            'the kernel is transposed: it is w[k, l], with the row k first. For a window that is '
            'not square, the wrong order even leaves the array.',
        ),
        (
            lambda x, w: conv(x, w)[:-1, :-1],
            'the last place is missing on each axis: range(n - k) has n - k elements, but there '
            'are n - k + 1 places.',
        ),
        (
            _last_left_zero,
            'the last row and the last column are left at zero: loop over all n - k + 1 places of '
            'each axis.',
        ),
        (
            _last_tap,
            'only the last element of the window arrives: add the products up with +=, instead of '
            'storing each with =.',
        ),
        (
            _backwards,
            'you read x[i - k, j - l]. An index below zero counts from the end in NumPy, so '
            'nothing warns. The window lies at x[i + k, j + l].',
        ),
        (
            lambda x, w: conv(x, w, 'SAME'),
            'the result has the size of the image, so it was padded. This exercise does not pad: '
            'the window stays inside.',
        ),
        (
            lambda x, w: conv(x, w).T,
            'rows and columns of the result are exchanged: i counts rows, j counts columns.',
        ),
        (
            lambda x, w: conv(x, w) / w.size,
            'this is the mean of the products; a convolution is their sum.',
        ),
    ),
)


def _im2col(x: Array, height: int, width: int) -> Array:
    patches = np.asarray(cnn_jax.unfold(x, (height, width)))
    return patches.reshape(-1, patches.shape[-1])


def _reordered(axes: tuple[int, ...]):
    """Returns im2col with the axes (row, column, window row, window column, channel) reordered."""

    def im2col(x: Array, height: int, width: int) -> Array:
        channels = x.shape[-1]
        rows, columns = x.shape[0] - height + 1, x.shape[1] - width + 1
        patches = _im2col(x, height, width).reshape(rows, columns, height, width, channels)
        return patches.transpose(axes).reshape(rows * columns, -1)

    return im2col


def _apart(x: Array, height: int, width: int) -> Array:
    patches = np.asarray(cnn_jax.unfold(x, (height, width), strides=(height, width)))
    return patches.reshape(-1, patches.shape[-1])


im2col = Exercise(
    name='im2col',
    right=_im2col,
    cases=lambda: [
        (whole_numbers(3, 4, 1), 2, 2),
        (whole_numbers(5, 4, 3, seed=1), 2, 3),
        (whole_numbers(4, 6, 2, seed=2), 3, 1),
    ],
    verified='the same patches as cnn_jax.unfold, in the same order, for one, two and three '
    'channels.',
    shape='One row per place of the window, (h - height + 1) (w - width + 1) in all; one column '
    'per element of the window, height * width * channels.',
    wrong=(
        (
            lambda x, height, width: _im2col(x, height, width).T,
            'the matrix is transposed: one row per place of the window, one column per element of '
            'it.',
        ),
        (
            _reordered((0, 1, 4, 2, 3)),
            'within a row, the channels come first. They come last here, as in the image: row of '
            'the window, column of the window, channel.',
        ),
        (
            _reordered((0, 1, 3, 2, 4)),
            'within a row, the window is read by columns. Read it by rows, as reshape does.',
        ),
        (
            _reordered((1, 0, 2, 3, 4)),
            'the places are ordered by columns. Let the row of the place be the outer loop.',
        ),
        (
            _apart,
            'the windows lie side by side, as in pooling. A convolution moves the window by one '
            'pixel, so they overlap.',
        ),
        (
            lambda x, height, width: _im2col(x[:-1, :-1], height, width),
            'the last place is missing on each axis: there are n - k + 1 of them.',
        ),
    ),
)


def _conv_channels(x: Array, w: Array) -> Array:
    return np.asarray(cnn_jax.conv(x, w, padding='VALID', precision='highest'))


def _products(x: Array, w: Array) -> Array:
    """Returns the terms of the sum over taps, (taps, height, width, out)."""
    rows, columns = x.shape[0] - w.shape[0] + 1, x.shape[1] - w.shape[1] + 1
    return np.stack(
        [x[k : k + rows, j : j + columns] @ w[k, j] for k, j in np.ndindex(*w.shape[:2])]
    )


conv_scan = Exercise(
    name='conv_scan',
    right=_conv_channels,
    cases=lambda: [
        (whole_numbers(3, 4, 1), whole_numbers(2, 2, 1, 2, seed=1)),
        (whole_numbers(6, 5, 3, seed=2), whole_numbers(3, 3, 3, 4, seed=3)),
        (whole_numbers(5, 8, 2, seed=4), whole_numbers(2, 4, 2, 3, seed=5)),
    ],
    verified='equal to cnn_jax.conv with several input and output channels.',
    shape='(h - kh + 1, w - kw + 1, out): the channels of the input are summed over.',
    wrong=(
        (
            lambda x, w: _conv_channels(x, w[::-1, ::-1]),
            'the kernel is flipped: the view that starts at (k, l) meets w[k, l].',
        ),
        (
            lambda x, w: _conv_channels(x, w.swapaxes(0, 1).reshape(w.shape)),
            'the views start in the order of columns and the taps of the kernel come in the order '
            'of rows. Use one order for both, for example that of np.ndindex(kh, kw).',
        ),
        (
            lambda x, w: _products(x, w)[-1],
            'this is what the last tap adds. The body of the scan returns the new sum: y + '
            'einsum(...).',
        ),
        (
            _products,
            'these are the products of all taps, one after the other. lax.scan returns (carry, '
            'stacked outputs); the sum is the carry.',
        ),
        (
            lambda x, w: x @ w.sum((0, 1)),
            'every view is the whole image: lax.dynamic_slice moves a slice that would leave the '
            'image back inside, without a warning. The size of a view is that of the result, h - '
            'kh + 1 by w - kw + 1.',
        ),
        (
            lambda x, w: _conv_channels(x[..., :1], w[:, :, :1]),
            "only the first channel of the input arrives: sum over all, einsum('hwc,co->hwo').",
        ),
    ),
)

_CENTRE = filters.identity()

box = Exercise(
    name='box',
    right=filters.blur,
    cases=lambda: [(3,), (5,), (1,)],
    verified='the filters of size 1, 3 and 5 sum to 1, so a grey area keeps its brightness.',
    shape='A filter for images has two axes of the same length.',
    wrong=(
        (
            lambda size: np.ones((size, size)),
            'the filter sums to size * size, so the picture becomes that much brighter. Divide by '
            'the number of elements.',
        ),
        (
            lambda size: np.ones((size, size)) / size,
            'the sum is divided by size, but the window has size * size elements.',
        ),
        (
            lambda size: np.ones((size, size)) / 9,
            'the divisor is always 9. It depends on the size.',
        ),
        (
            lambda size: np.ones(size) / size,
            'this filter has one axis, so it blurs along one direction only.',
        ),
        (
            lambda size: (
                (1 - np.pad([[1.0]], size // 2)) / max(size**2 - 1, 1)
                if size > 1
                else np.zeros((1, 1))
            ),
            'the centre is left out: the mean is that of the neighbours. A box takes all elements '
            'alike.',
        ),
        (
            lambda size: np.ones((3, 3)) / 9,
            'this filter is always 3 x 3.',
        ),
    ),
)


def _sharpen(amount: float) -> Array:
    return _CENTRE + amount * (_CENTRE - filters.blur(3))


sharpen = Exercise(
    name='sharpen',
    right=_sharpen,
    cases=lambda: [(1.0,), (0.5,), (0.0,)],
    verified='a filter that sums to 1 for every amount, and changes nothing for amount = 0.',
    shape='identity and box(3) are both 3 x 3.',
    wrong=(
        (
            lambda amount: amount * (_CENTRE - filters.blur(3)),
            'these are the details alone, and flat areas become black. Add them to the picture.',
        ),
        (
            lambda amount: _CENTRE - amount * (_CENTRE - filters.blur(3)),
            'the sign is wrong: this subtracts details, so it blurs. Details are the picture '
            'minus its blur.',
        ),
        (
            lambda amount: _CENTRE + amount * filters.blur(3),
            'this adds the blur itself. Add what the blur removes: the picture minus its blur.',
        ),
        (
            lambda amount: _CENTRE - amount * filters.blur(3),
            'this subtracts the blur without adding the picture once more, so the sum is 1 - '
            'amount and the picture darkens.',
        ),
        (
            lambda amount: _CENTRE + amount * (9 * _CENTRE - np.ones((3, 3))),
            'box(3) is divided by 9; the filter you subtract is not.',
        ),
        (
            lambda amount: _sharpen(1.0),
            'this is right for amount = 1 only: amount does not appear.',
        ),
    ),
)


def _along(x: Array, filter: Array) -> tuple[Array, Array]:
    return conv(x, filter), conv(x, filter.T)


def _edges(x: Array) -> Array:
    return np.hypot(*_along(x, filters.sobel_x()))


edges = Exercise(
    name='edges',
    right=_edges,
    cases=lambda: [(whole_numbers(3, 4),), (whole_numbers(8, 6, seed=1),), (np.eye(5) * 2,)],
    verified='the length of the gradient, for edges in every direction.',
    shape='A 3 x 3 filter without padding takes one pixel from each side.',
    wrong=(
        (
            lambda x: np.abs(_along(x, filters.sobel_x())[0]),
            'this is the derivative along columns alone: it misses horizontal edges.',
        ),
        (
            lambda x: np.abs(_along(x, filters.sobel_x())[1]),
            'this is the derivative along rows alone: it misses vertical edges.',
        ),
        (
            lambda x: _edges(x) ** 2,
            'this is the squared length: take the root.',
        ),
        (
            lambda x: sum(_along(x, filters.sobel_x())),
            'the two derivatives are added, so they can cancel. The length of a vector is the '
            'root of the sum of squares.',
        ),
        (
            lambda x: sum(map(np.abs, _along(x, filters.sobel_x()))),
            'this is |gx| + |gy|, which is larger along diagonals. The length is sqrt(gx^2 + '
            'gy^2).',
        ),
        (
            lambda x: np.hypot(*_along(x, np.tile(np.array([-1, 0, 1]), (3, 1)))),
            'these are the filters of Prewitt, with 1, 1, 1. Those of Sobel weigh the middle '
            'twice: 1, 2, 1.',
        ),
        (
            lambda x: np.hypot(
                conv(x, filters.sobel_x(), 'SAME'), conv(x, filters.sobel_y(), 'SAME')
            ),
            'the result has the size of the image, so it was padded, which draws a frame of false '
            'edges.',
        ),
    ),
)

"""Exercises of chapter 2: stride, padding, dilation, output sizes, receptive fields."""

import math

import numpy as np

import cnn_jax
from cnn_jax.course.arrays import Array, conv, whole_numbers
from cnn_jax.course.exercise import Case, Exercise
from cnn_jax.ops.spec import resolve_padding


def _output_size(n: int, k: int, stride: int, padding: int, dilation: int) -> int:
    return cnn_jax.output_size(n, k, strides=stride, padding=padding, dilation=dilation)[0]


output_size = Exercise(
    name='output_size',
    right=_output_size,
    cases=lambda: [
        (7, 3, 1, 0, 1),
        (7, 3, 2, 1, 1),
        (8, 3, 2, 1, 1),
        (224, 7, 2, 3, 1),
        (10, 3, 1, 0, 4),
        (9, 2, 3, 2, 2),
    ],
    verified='equal to cnn_jax.output_size with strides, padding and dilation.',
    shape='Return one whole number.',
    wrong=(
        (
            lambda n, k, s, p, d: (n + 2 * p - d * (k - 1) - 1) // s,
            'one is missing: the first window is there without any step. Divide the room that is '
            'left for steps by the stride, then add 1.',
        ),
        (
            lambda n, k, s, p, d: (n + p - d * (k - 1) - 1) // s + 1,
            'the padding counts once; it is added on both sides.',
        ),
        (
            lambda n, k, s, p, d: math.ceil((n + 2 * p - d * (k - 1) - 1) / s) + 1,
            'this rounds up, so the last window would hang over the end. Round down: //.',
        ),
        (
            lambda n, k, s, p, d: (n + 2 * p - d * (k - 1) - 1) / s + 1,
            'this is not a whole number. Half a step is no step: divide with //.',
        ),
        (
            lambda n, k, s, p, d: (n + 2 * p - k) // s + 1,
            'the dilation is missing: with gaps, a window of k spans d (k - 1) + 1 pixels.',
        ),
        (
            lambda n, k, s, p, d: (n + 2 * p - d * k) // s + 1,
            'a dilated window spans d k pixels here. k elements have only k - 1 gaps between '
            'them: d (k - 1) + 1.',
        ),
        (
            lambda n, k, s, p, d: n + 2 * p - d * (k - 1),
            'the stride is missing: only every stride-th window is kept.',
        ),
    ),
)


def _conv_1d(x: Array, w: Array, stride: int, padding: int, dilation: int) -> Array:
    return conv(x, w, padding, strides=stride, dilation=dilation)


def _padded(pairs, mode: str = 'zeros'):
    """Returns conv_1d with another padding: pairs(padding) is (before, after)."""

    def conv_1d(x: Array, w: Array, stride: int, padding: int, dilation: int) -> Array:
        x = np.asarray(cnn_jax.pad(x[:, None], (pairs(padding),), mode=mode))[:, 0]
        return _conv_1d(x, w, stride, 0, dilation)

    return conv_1d


def _first_places(x: Array, w: Array, stride: int, padding: int, dilation: int) -> Array:
    y = _conv_1d(x, w, stride, padding, dilation)
    return _conv_1d(x, w, 1, padding, dilation)[: len(y)]


def _conv_1d_cases() -> list[Case]:
    return [
        (whole_numbers(5), whole_numbers(3, seed=1), 1, 0, 1),
        (whole_numbers(8, seed=2), whole_numbers(3, seed=3), 2, 1, 1),
        (whole_numbers(9, seed=4), whole_numbers(3, seed=5), 1, 0, 2),
        (whole_numbers(12, seed=6), whole_numbers(2, seed=7), 3, 2, 2),
    ]


conv_1d = Exercise(
    name='conv_1d',
    right=_conv_1d,
    cases=_conv_1d_cases,
    verified='equal to cnn_jax.conv with strides, padding and dilation, also all three at once.',
    shape='Its length is output_size(n, k, stride, padding, dilation).',
    wrong=(
        (
            _first_places,
            'the length is right, but the windows move by one pixel. Output i begins at stride * '
            'i in the padded signal.',
        ),
        (
            lambda x, w, s, p, d: _conv_1d(x, w, 1, p, d),
            'the stride is missing: output i begins at stride * i, and there are fewer outputs.',
        ),
        (
            lambda x, w, s, p, d: _conv_1d(x, w, s, p, 1),
            'the dilation is missing: element k of the window meets element dilation * k of the '
            'signal.',
        ),
        (
            _padded(lambda p: (p, 0)),
            'the zeros are added before the signal only; they belong on both sides.',
        ),
        (
            _padded(lambda p: (0, p)),
            'the zeros are added after the signal only; they belong on both sides.',
        ),
        (
            _padded(lambda p: (p, p), 'replicate'),
            "the padding repeats the border (np.pad with mode='edge'). Here it is zeros.",
        ),
        (
            lambda x, w, s, p, d: _conv_1d(x, w[::-1], s, p, d),
            'the kernel is flipped: w[k] meets x[stride * i + dilation * k].',
        ),
    ),
)


def _same_padding(n: int, k: int, stride: int) -> tuple[int, int]:
    return resolve_padding('SAME', (n,), (k,), (stride,))[0]


def _total(n: int, k: int, stride: int) -> int:
    return (-(-n // stride) - 1) * stride + k - n


same_padding = Exercise(
    name='same_padding',
    right=_same_padding,
    cases=lambda: [(8, 3, 2), (7, 3, 2), (6, 3, 1), (5, 4, 1), (224, 7, 2), (8, 1, 4), (9, 2, 4)],
    verified="what padding='SAME' adds, also for even windows and for windows below the stride.",
    shape='Return two numbers, (before, after).',
    wrong=(
        (
            lambda n, k, s: ((k - 1) // 2, (k - 1) // 2),
            "these are PyTorch's numbers, (k - 1) // 2 on both sides. 'SAME' adds only as much as "
            'the last window needs, so it depends on n and the stride.',
        ),
        (
            lambda n, k, s: tuple(reversed(_same_padding(n, k, s))),
            'the odd element is before. An odd total is split with the larger half after.',
        ),
        (
            lambda n, k, s: ((k - 1) // 2, k - 1 - (k - 1) // 2),
            'this ignores the stride: with it, the last window begins at (outputs - 1) * stride.',
        ),
        (
            lambda n, k, s: (0, max(_total(n, k, s), 0)),
            'everything is added after. Half of it belongs before.',
        ),
        (
            lambda n, k, s: (_total(n, k, s) // 2, _total(n, k, s) - _total(n, k, s) // 2),
            'this can be negative, where the window is below the stride: the last window then '
            'ends inside. Take max(total, 0): padding does not crop.',
        ),
        (
            lambda n, k, s: (
                max((n // s - 1) * s + k - n, 0) // 2,
                -(-max((n // s - 1) * s + k - n, 0) // 2),
            ),
            "the number of outputs is rounded down. 'SAME' means ceil(n / stride), so that every "
            'pixel is seen.',
        ),
    ),
)


def _centres(n: int, k: int, stride: int, padding: int) -> Array:
    return np.arange(_output_size(n, k, stride, padding, 1)) * stride - padding + (k - 1) / 2


centres = Exercise(
    name='centres',
    right=_centres,
    cases=lambda: [(8, 3, 2, 1), (8, 3, 2, 0), (7, 5, 3, 2), (6, 4, 1, 1)],
    verified='where each window lies, for odd and even windows.',
    shape='One number per output: there are (n + 2 padding - k) // stride + 1.',
    wrong=(
        (
            lambda n, k, s, p: _centres(n, k, s, p) + p,
            'these are positions in the padded signal. The signal itself begins padding positions '
            'later, so subtract it.',
        ),
        (
            lambda n, k, s, p: _centres(n, k, s, p) + 2 * p,
            'the padding moves windows to the left, to negative positions: subtract it.',
        ),
        (
            lambda n, k, s, p: _centres(n, k, s, p) - (k - 1) / 2,
            'these are the first elements of the windows. The middle is (k - 1) / 2 further.',
        ),
        (
            lambda n, k, s, p: _centres(n, k, s, p) + 0.5,
            'this adds k / 2. The middle of the positions 0 ... k - 1 is (k - 1) / 2; for k = 3 '
            'it is 1.',
        ),
        (
            lambda n, k, s, p: np.floor(_centres(n, k, s, p)),
            'this is right for odd windows. The middle of an even one lies between two pixels: '
            'divide with /, not with //.',
        ),
        (
            lambda n, k, s, p: _centres(n, k, s, p)[0] + np.arange(len(_centres(n, k, s, p))),
            'neighbouring windows are one pixel apart here; they are stride pixels apart.',
        ),
    ),
)


def _receptive_field(layers: list[tuple[int, int]]) -> tuple[int, int]:
    return cnn_jax.receptive_field(layers)[:2]


def _with_size(size):
    """Returns receptive_field with another size, a function of the windows and strides."""
    return lambda layers: (int(size(*map(np.array, zip(*layers, strict=True)))), _jump(layers))


def _jump(layers: list[tuple[int, int]]) -> int:
    return _receptive_field(layers)[1]


receptive_field = Exercise(
    name='receptive_field',
    right=_receptive_field,
    cases=lambda: [
        ([(3, 1), (3, 1)],),
        ([(3, 2), (3, 1)],),
        ([(5, 2), (2, 2), (3, 1), (3, 3)],),
        ([(3, 1), (3, 1), (2, 2)] * 2 + [(3, 1), (3, 1), (3, 1), (2, 2)] * 3,),
    ],
    verified='equal to cnn_jax.receptive_field, the last case being the thirteen convolutions and '
    'five pools of VGG-16.',
    shape='Return two numbers, (size, jump).',
    wrong=(
        (
            _with_size(lambda k, s: k.sum()),
            'this adds the windows. Two windows of 3 see 5 pixels, not 6: a layer adds k - 1.',
        ),
        (
            _with_size(lambda k, s: 1 + (k - 1).sum()),
            'this forgets the strides below: there, one step is jump pixels of the input, so a '
            'layer adds (k - 1) * jump.',
        ),
        (
            _with_size(lambda k, s: 1 + ((k - 1) * np.cumprod(s)).sum()),
            'the jump includes the stride of the layer itself. A window of k lies on the layer '
            'below, so first add (k - 1) * jump, then multiply the jump.',
        ),
        (
            _with_size(lambda k, s: k.prod()),
            'this multiplies the windows; their overlaps are counted several times. A layer adds '
            '(k - 1) * jump.',
        ),
        (
            _with_size(lambda k, s: ((k - 1) * np.cumprod([1, *s[:-1]])).sum()),
            'one is missing: without any layer, an output sees one pixel, so begin with size 1.',
        ),
        (
            lambda layers: (_receptive_field(layers)[0], sum(s for _, s in layers)),
            'the strides are added. They multiply: a step of 2 on a layer whose steps are 2 is a '
            'step of 4.',
        ),
        (
            lambda layers: (_receptive_field(layers)[0], layers[-1][1]),
            'the jump is that of the last layer alone. Strides multiply.',
        ),
    ),
)

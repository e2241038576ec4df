"""Exercises of chapter 8: filters for sound, streaming, n-grams and the maximum over time."""

import numpy as np

import cnn_jax
from cnn_jax.course.arrays import Array, conv, whole_numbers
from cnn_jax.course.exercise import Case, Exercise
from cnn_jax.errors import optional_packages

with optional_packages('train'):
    import scipy.signal


def _low_pass(cutoff: float, rate: float, taps: int) -> Array:
    return scipy.signal.firwin(taps, cutoff, fs=rate, window='hamming')


def _sinc(cutoff: float, rate: float, taps: int) -> Array:
    return np.sinc(2 * cutoff / rate * (np.arange(taps) - (taps - 1) / 2))


def _to_sum_1(w: Array) -> Array:
    return w / w.sum()


low_pass = Exercise(
    name='low_pass',
    right=_low_pass,
    cases=lambda: [(1000.0, 8000.0, 5), (300.0, 8000.0, 32), (2500.0, 16000.0, 101)],
    verified='equal to scipy.signal.firwin, for odd and even numbers of taps.',
    shape='One number per tap: np.arange(taps).',
    wrong=(
        (
            lambda cutoff, rate, taps: _to_sum_1(_sinc(cutoff, rate, taps)),
            'the window is missing. A sinc that is simply cut off lets waves through beyond the '
            'cutoff; multiply by np.hamming(taps).',
        ),
        (
            lambda cutoff, rate, taps: _to_sum_1(_sinc(cutoff, rate, taps) * np.hanning(taps)),
            'the window is that of Hann (np.hanning). It works as well, but here it is that of '
            'Hamming.',
        ),
        (
            lambda cutoff, rate, taps: _sinc(cutoff, rate, taps) * np.hamming(taps),
            'the sum is not 1, so everything becomes louder. Divide by the sum, last.',
        ),
        (
            lambda cutoff, rate, taps: (
                2 * cutoff / rate * _sinc(cutoff, rate, taps) * np.hamming(taps)
            ),
            'the sum is close to 1, but not 1: the window has changed it. Divide by the sum, last.',
        ),
        (
            lambda cutoff, rate, taps: _low_pass(cutoff / 2, rate, taps),
            'the cutoff is half of what is asked for. The argument of np.sinc is 2 cutoff / rate '
            'times the position.',
        ),
        (
            lambda cutoff, rate, taps: _to_sum_1(
                _sinc(np.pi * cutoff, rate, taps) * np.hamming(taps)
            ),
            'np.sinc(x) is sin(pi x) / (pi x): it has the pi already.',
        ),
        (
            lambda cutoff, rate, taps: _to_sum_1(
                np.sinc(2 * cutoff / rate * np.arange(taps)) * np.hamming(taps)
            ),
            'the sinc begins at its peak. Its peak belongs into the middle: position k - (taps - '
            '1) / 2.',
        ),
        (
            lambda cutoff, rate, taps: _to_sum_1(
                np.sinc(2 * cutoff / rate * (np.arange(taps) - taps // 2)) * np.hamming(taps)
            ),
            'this is right for odd numbers of taps. The middle of an even number lies between two '
            'of them: (taps - 1) / 2, with /.',
        ),
        (
            lambda cutoff, rate, taps: _to_sum_1(np.hamming(taps)),
            'this is the window alone: the cutoff does not appear.',
        ),
    ),
)


def _band_pass(low: float, high: float, rate: float, taps: int) -> Array:
    return _low_pass(high, rate, taps) - _low_pass(low, rate, taps)


band_pass = Exercise(
    name='band_pass',
    right=_band_pass,
    cases=lambda: [(500.0, 1500.0, 8000.0, 5), (680.0, 720.0, 8000.0, 101)],
    verified='what lies between low and high passes; a constant gives exactly 0.',
    shape='Both low-passes have one number per tap.',
    wrong=(
        (
            lambda low, high, rate, taps: -_band_pass(low, high, rate, taps),
            'the sign is wrong: from what lies below high, take away what lies below low.',
        ),
        (
            lambda low, high, rate, taps: _low_pass(high, rate, taps),
            'this is the low-pass up to high: what lies below low passes, too.',
        ),
        (
            lambda low, high, rate, taps: _low_pass(high, rate, taps) + _low_pass(low, rate, taps),
            'the low-passes are added, so the low tones pass twice. Subtract.',
        ),
        (
            lambda low, high, rate, taps: _low_pass(high, rate, taps) * _low_pass(low, rate, taps),
            'the weights are multiplied one by one. Filters are linear: their differences are '
            'filters, their products are not what they look like.',
        ),
        (
            lambda low, high, rate, taps: _low_pass(high - low, rate, taps),
            'this is a low-pass as wide as the band. The band does not begin at 0.',
        ),
        (
            lambda low, high, rate, taps: _to_sum_1(_band_pass(low, high, rate, taps) + 1e-3),
            'the filter is scaled to sum 1, so constants pass. A band-pass has the sum 0.',
        ),
    ),
)


def _fft_conv(x: Array, w: Array) -> Array:
    return conv(x, w[::-1], padding=len(w) - 1)


def _by_fft(x: Array, w: Array, n: int, out: int | None = None) -> Array:
    """Multiplies the spectra of n points, and returns `out` points of the result, by default n."""
    return np.fft.irfft(np.fft.rfft(x, n) * np.fft.rfft(w, n), out or n)


fft_conv = Exercise(
    name='fft_conv',
    right=_fft_conv,
    cases=lambda: [
        (whole_numbers(4), whole_numbers(3, seed=1)),
        (whole_numbers(9, seed=2), whole_numbers(5, seed=3)),
        (whole_numbers(20, seed=4), whole_numbers(2, seed=5)),
    ],
    verified='equal to cnn_jax.conv with the flipped kernel and padding k - 1.',
    shape='The last of n samples meets the last of k taps at position n + k - 2.',
    wrong=(
        (
            lambda x, w: _by_fft(x, w, len(x)),
            'this is as long as x, and its beginning contains the end of x: a spectrum of n points '
            'describes a circle of n points. Use n + k - 1 points, so that zeros lie between.',
        ),
        (
            lambda x, w: conv(x, w, padding=len(w) - 1),
            'this is the convolution of deep learning. The theorem is about that of the '
            'mathematicians, which flips the kernel; do not conjugate a spectrum.',
        ),
        (
            lambda x, w: _by_fft(x, w, len(x) + len(w)),
            'there is one point too many: n + k - 1.',
        ),
        (
            lambda x, w: _by_fft(x, w, len(x) + len(w) - 1, (len(x) + len(w) - 1) // 2 * 2),
            'for an odd number of points, irfft guesses the even number below. Pass the number: '
            'np.fft.irfft(spectrum, n).',
        ),
        (
            lambda x, w: np.abs(_fft_conv(x, w)),
            'these are absolute values. The result has a sign: take the real part, or use irfft.',
        ),
        (
            lambda x, w: _fft_conv(x, w)[len(w) - 1 : len(x)],
            'these are the places where the whole window fits. Here the signal continues with '
            'zeros on both sides, so there are n + k - 1 places.',
        ),
        (
            lambda x, w: _fft_conv(x, w) / (len(x) + len(w) - 1),
            'the result is divided by the number of points. irfft did that already.',
        ),
    ),
)


def _stream(x: Array, w: Array, state: Array) -> tuple[Array, Array]:
    y, kept = cnn_jax.conv_stream(x[:, None], w[:, None, None], state[:, None], precision='highest')
    return np.asarray(y)[:, 0], np.asarray(kept)[:, 0]


def _last(x: Array, count: int) -> Array:
    return x[len(x) - count :]


stream = Exercise(
    name='stream',
    right=_stream,
    cases=lambda: [
        (whole_numbers(5), whole_numbers(3, seed=1), np.zeros(2, np.float32)),
        (whole_numbers(4, seed=2), whole_numbers(3, seed=3), whole_numbers(2, seed=4)),
        (whole_numbers(1, seed=5), whole_numbers(4, seed=6), whole_numbers(3, seed=7)),
        (whole_numbers(3, seed=8), whole_numbers(1, seed=9), np.zeros(0, np.float32)),
    ],
    verified='outputs and state equal those of cnn_jax.conv_stream, also for a chunk that is '
    'shorter than the window and for a window of 1.',
    shape='One output per sample of the chunk; the state has k - 1 samples.',
    wrong=(
        (
            lambda x, w, state: (_stream(x, w, 0 * state)[0], _stream(x, w, state)[1]),
            'the outputs begin with silence: put the state before the chunk, not zeros.',
        ),
        (
            lambda x, w, state: (_stream(x, w, state)[0], state),
            'the state stays as it was. Return the last k - 1 samples that were heard.',
        ),
        (
            lambda x, w, state: (_stream(x, w, state)[0], x[-len(w) + 1 :]),
            'the new state comes from the chunk alone. A chunk can be shorter than the window: '
            'take the last k - 1 samples of state and chunk together. And for k = 1, x[-0:] is '
            'everything.',
        ),
        (
            lambda x, w, state: (
                _stream(x, w, state)[0],
                np.concatenate([state, x])[-len(w) + 1 :],
            ),
            'for k = 1 nothing has to be kept, but [-0:] is everything. Count from the front: '
            '[len(x):].',
        ),
        (
            lambda x, w, state: (
                _stream(x, w, state)[0],
                _last(np.concatenate([state, x]), len(w)),
            ),
            'the state has k samples. The newest output has used the oldest of them for the last '
            'time: k - 1 are enough.',
        ),
        (
            lambda x, w, state: (_stream(x, w[::-1], state)[0], _stream(x, w, state)[1]),
            'the kernel is flipped: y[i] is the sum of w[k] known[i + k], where known is the state '
            'followed by the chunk.',
        ),
        (
            lambda x, w, state: (
                _stream(np.concatenate([x, state]), w, np.zeros(len(w) - 1, np.float32))[0][
                    len(w) - 1 :
                ],
                _stream(x, w, state)[1],
            ),
            'the state is put after the chunk. It is the past: it comes first.',
        ),
    ),
)


def _rotated(size: int) -> Array:
    """Returns a matrix whose rows are orthogonal and have length 1."""
    return np.linalg.qr(np.random.default_rng(size).standard_normal((size, size)))[0]


ngram_detector = Exercise(
    name='ngram_detector',
    right=lambda embed, ids: (embed[ids], 1 - len(ids)),
    cases=lambda: [
        (np.eye(4)[::-1].copy(), np.array([2, 0])),
        (_rotated(5), np.array([3, 1, 4])),
        (_rotated(6), np.array([5])),
    ],
    verified='the response is 1 to the n-gram, and at most 0 to every other.',
    shape='The kernel has one row per word of the n-gram, as long as a word vector; the bias is a '
    'number.',
    wrong=(
        (
            lambda embed, ids: (embed[ids], 0),
            'the bias is 0, so each single word in its place gives a positive response. Which bias '
            'leaves 1 of n matches, and nothing of n - 1?',
        ),
        (
            lambda embed, ids: (embed[ids], -len(ids)),
            'even the n-gram itself gives 0: n matches and the bias -n.',
        ),
        (
            lambda embed, ids: (embed[ids] / len(ids), 0),
            'the response to the n-gram is 1, but n - 1 of its words still give (n - 1) / n.',
        ),
        (
            lambda embed, ids: (embed[ids][::-1], 1 - len(ids)),
            'the words are in the opposite order. Row k of the kernel meets word i + k.',
        ),
        (
            lambda embed, ids: (np.tile(embed[ids].sum(0), (len(ids), 1)), 1 - len(ids)),
            'every place accepts every word of the n-gram, so order does not matter. Row k belongs '
            'to word k alone.',
        ),
        (
            lambda embed, ids: (np.eye(len(embed))[ids], 1 - len(ids)),
            'the rows are one-hot. That is right only if the word vectors are, too: look them up, '
            'embed[ids].',
        ),
        (
            lambda embed, ids: (embed[: len(ids)], 1 - len(ids)),
            'these are the vectors of the first words of the vocabulary: ids are not used.',
        ),
        (
            lambda embed, ids: (embed[ids], len(ids) - 1),
            'the sign of the bias is wrong: it has to be lower than the sum of the matches.',
        ),
    ),
)


def _inside(responses: Array, lengths: Array) -> Array:
    return (np.arange(responses.shape[1]) < lengths[:, None])[..., None]


def _masked(responses: Array, lengths: Array) -> Array:
    return np.where(_inside(responses, lengths), responses, -np.inf)


def _max_over_time(responses: Array, lengths: Array) -> Array:
    return _masked(responses, lengths).max(1)


def _time_cases() -> list[Case]:
    return [
        (whole_numbers(2, 4, 2), np.array([3, 2])),
        (-1 - np.abs(whole_numbers(3, 5, 2, seed=1)), np.array([1, 5, 3])),
        (whole_numbers(4, 6, 3, seed=2), np.array([4, 6, 1, 2])),
    ]


max_over_time = Exercise(
    name='max_over_time',
    right=_max_over_time,
    cases=_time_cases,
    verified='padding never wins, not even against negative responses.',
    shape='One number per text and filter: the positions are gone.',
    wrong=(
        (
            lambda responses, lengths: responses.max(1),
            'padding takes part: the maximum is over all positions. Those from lengths[i] on do '
            'not belong to text i.',
        ),
        (
            lambda responses, lengths: (responses * _inside(responses, lengths)).max(1),
            'padding is set to 0, which is more than a negative response. Set it to -inf.',
        ),
        (
            lambda responses, lengths: _max_over_time(
                responses, np.minimum(lengths + 1, responses.shape[1])
            ),
            'one position too many: a text has the positions 0 ... length - 1.',
        ),
        (
            lambda responses, lengths: (
                (responses * _inside(responses, lengths)).sum(1) / lengths[:, None]
            ),
            'this is the mean over time, in which one match among many words disappears.',
        ),
        (
            lambda responses, lengths: _masked(responses, lengths).argmax(1),
            'these are the positions of the maxima (argmax), not the maxima.',
        ),
        (
            lambda responses, lengths: _masked(responses, lengths).max(2),
            'this is the maximum over the filters. Time is axis 1.',
        ),
        (
            lambda responses, lengths: np.maximum(_max_over_time(responses, lengths), 0),
            'the maximum begins with 0, so negative responses are lost. Begin with -inf.',
        ),
    ),
)

"""Exercises of chapter 10, why kernels differ in speed."""

from collections.abc import Callable

import jax
import numpy as np

from cnn_jax.course.arrays import Array, conv, whole_numbers
from cnn_jax.course.counting import with_multiplications
from cnn_jax.course.exercise import Case, Exercise
from cnn_jax.course.simulated import Device
from cnn_jax.ops.kernels.winograd import INPUT, KERNEL, OUTPUT

Clock = Callable[[], float]


def _seconds(f: Callable, x: float, rounds: int, clock: Clock) -> float:
    return _timed(f, x, rounds, clock)


def _timed(f, x, rounds, clock, warm_up=jax.block_until_ready, wait=jax.block_until_ready,
           summary=np.median):  # fmt: skip
    warm_up and warm_up(f(x))
    samples = []
    for _ in range(rounds):
        start = clock()
        wait(f(x))
        samples.append(clock() - start)
    return summary(samples)


def _started(result: object) -> None:
    """Does not wait for the result."""


def _together(f: Callable, x: float, rounds: int, clock: Clock) -> float:
    jax.block_until_ready(f(x))
    start = clock()
    for _ in range(rounds):
        result = f(x)
    jax.block_until_ready(result)
    return (clock() - start) / rounds


def _device_case(rounds: int, *seconds: float) -> Case:
    device = Device(seconds)
    return device.step, 3.0, rounds, device.clock


seconds = Exercise(
    name='seconds',
    right=_seconds,
    cases=lambda: [
        _device_case(1, 0.5, 0.1),
        _device_case(5, 0.5, 0.1, 0.1, 0.9, 0.1, 0.1),
        _device_case(4, 0.5, 0.2, 0.3, 0.4, 0.8),
    ],
    verified='compilation is left out, each call is awaited, and an outlier changes nothing.',
    shape='One number, in seconds.',
    wrong=(
        (
            lambda f, x, rounds, clock: _timed(f, x, rounds, clock, warm_up=None, wait=_started),
            'this is how long it takes to compile and to start calls, not to run them: wait for '
            'each result, and call f once before the clock starts.',
        ),
        (
            lambda f, x, rounds, clock: _timed(f, x, rounds, clock, warm_up=None),
            'the first call compiles, and with one round that is all you see. Call f once before '
            'the clock starts.',
        ),
        (
            lambda f, x, rounds, clock: _timed(f, x, rounds, clock, warm_up=_started),
            'the first call is started but not awaited, so its rest is in the first sample.',
        ),
        (
            lambda f, x, rounds, clock: _timed(f, x, rounds, clock, wait=_started),
            'f returns before its result is computed. Wait before you read the clock: '
            'jax.block_until_ready(f(x)).',
        ),
        (
            _together,
            'all calls are measured as one: a slow one changes the result, and calls that nobody '
            'waits for may overlap. Read the clock before and after each.',
        ),
        (
            lambda f, x, rounds, clock: _timed(f, x, rounds, clock, summary=np.mean),
            'the mean: one interruption by another program changes it. Return the median.',
        ),
        (
            lambda f, x, rounds, clock: _timed(f, x, rounds, clock, summary=np.min),
            'the fastest call: nobody waits for it but once. Return the median.',
        ),
        (
            lambda f, x, rounds, clock: _timed(f, x, rounds, clock, summary=np.sum),
            'the sum of all calls. Return the median of one.',
        ),
    ),
)


def _roofline(pixels, k, c, o, groups, peak, bandwidth) -> tuple[float, float, float]:
    weights = k * k * c // groups * o
    operations, moved = 2 * pixels * weights, 4 * (pixels * c + pixels * o + weights)
    return operations, moved, min(peak, operations / moved * bandwidth)


def _roofline_with(operations=None, moved=None, attainable=None):
    """Returns roofline with another formula for one of its results."""

    def roofline(pixels, k, c, o, groups, peak, bandwidth):
        flops, size, rate = _roofline(pixels, k, c, o, groups, peak, bandwidth)
        if operations:
            flops = operations(pixels, k, c, o, groups)
            rate = min(peak, flops / size * bandwidth)
        if moved:
            size = moved(pixels, k, c, o, groups)
            rate = min(peak, flops / size * bandwidth)
        if attainable:
            rate = attainable(flops / size, peak, bandwidth)
        return flops, size, rate

    return roofline


roofline = Exercise(
    name='roofline',
    right=_roofline,
    cases=lambda: [
        (100, 3, 4, 8, 1, 200.0, 20.0),
        (100, 3, 64, 64, 1, 200.0, 20.0),
        (100, 3, 64, 64, 64, 200.0, 20.0),
        (50, 1, 8, 16, 4, 90.0, 30.0),
    ],
    verified='operations, bytes and attainable rate of dense, grouped and depthwise layers.',
    shape='Three numbers: operations, bytes, GFLOP/s.',
    wrong=(
        (
            _roofline_with(operations=lambda p, k, c, o, g: p * k**2 * c // g * o),
            'a multiplication and an addition are two operations.',
        ),
        (
            _roofline_with(operations=lambda p, k, c, o, g: 2 * p * k**2 * c * o),
            'each output channel sees c / groups input channels, so groups divide the operations.',
        ),
        (
            _roofline_with(operations=lambda p, k, c, o, g: 2 * p * k * c // g * o),
            'the window has k * k elements.',
        ),
        (
            _roofline_with(moved=lambda p, k, c, o, g: p * (c + o) + k**2 * c // g * o),
            'these are numbers, not bytes: a float32 has 4.',
        ),
        (
            _roofline_with(moved=lambda p, k, c, o, g: 4 * (p * c + k**2 * c // g * o)),
            'the result has to be written, too: pixels * o numbers.',
        ),
        (
            _roofline_with(moved=lambda p, k, c, o, g: 4 * p * (c + o)),
            'the kernel has to be read, too: k * k * c / groups * o numbers.',
        ),
        (
            _roofline_with(moved=lambda p, k, c, o, g: 4 * (p * (c + o) + k**2 * c * o)),
            'the kernel has k * k * (c / groups) * o elements.',
        ),
        (
            _roofline_with(
                moved=lambda p, k, c, o, g: 4 * (p * c * k**2 + p * o + k**2 * c // g * o)
            ),
            'each pixel is counted once per window. Caches exist for this: count it once.',
        ),
        (
            _roofline_with(attainable=lambda i, peak, bandwidth: max(peak, i * bandwidth)),
            'both limits hold, so the lower one decides: min.',
        ),
        (
            _roofline_with(attainable=lambda i, peak, bandwidth: min(peak, bandwidth)),
            'GB/s are no GFLOP/s: each byte brings as many operations as the intensity says.',
        ),
        (
            _roofline_with(attainable=lambda i, peak, bandwidth: min(peak, bandwidth / i)),
            'the intensity is upside down: operations per byte, times bytes per second.',
        ),
        (
            _roofline_with(attainable=lambda i, peak, bandwidth: i * bandwidth),
            'no layer computes faster than the peak, whatever its intensity.',
        ),
    ),
)


def _f23(d: Array, g: Array, output: Array = OUTPUT, kernel: Array = KERNEL) -> Array:
    return output @ ((kernel @ g) * (INPUT @ d))


def _signs(*changed: tuple[int, int]) -> Array:
    output = OUTPUT.copy()
    for at in changed:
        output[at] *= -1
    return output


def _directly(d: Array, g: Array) -> Array:
    """Computes each output as it is defined, in one or two dimensions."""
    y = np.zeros([n - k + 1 for n, k in zip(d.shape, g.shape, strict=True)], object)
    for at in np.ndindex(*y.shape):
        window = d[tuple(slice(i, i + k) for i, k in zip(at, g.shape, strict=True))]
        y[at] = (window * g).sum()
    return y


f23 = Exercise(
    name='f23',
    right=_f23,
    cases=lambda: [
        (np.array([1.0, 2.0, 3.0, 5.0]), np.array([1.0, 2.0, 4.0])),
        (whole_numbers(4, seed=1), whole_numbers(3, seed=2)),
        (whole_numbers(4, seed=3), whole_numbers(3, seed=4)),
    ],
    observe=with_multiplications,
    verified='both outputs, with 4 multiplications (the second result) in the place of 6.',
    shape='Two outputs, (2,); then the number of multiplications, which is counted for you.',
    wrong=(
        (
            _directly,
            'the numbers are right, but one multiplication per term makes 6. Compute the four '
            'products first and add those.',
        ),
        (
            lambda d, g: _f23(d, g[::-1]),
            'the kernel is flipped: y_0 = d_0 g_0 + d_1 g_1 + d_2 g_2.',
        ),
        (
            lambda d, g: _f23(d, g, kernel=np.array([1, 2, 2, 1])[:, None] * KERNEL),
            'm_2 and m_3 are twice too large: their sums of weights are halved.',
        ),
        (
            lambda d, g: _f23(d, g, _signs((1, 3))),
            'the sign of m_4 is wrong. y_1 contains d_3 g_2 with a plus.',
        ),
        (
            lambda d, g: _f23(d, g, _signs((1, 2))),
            'the sign of m_3 in y_1 is wrong: m_2 - m_3 is d_1 (g_0 + g_2) + d_2 g_1.',
        ),
        (
            lambda d, g: _f23(d, g, _signs((0, 2))),
            'the sign of m_3 in y_0 is wrong: m_2 + m_3 is d_1 g_1 + d_2 (g_0 + g_2).',
        ),
        (
            lambda d, g: _f23(d, g)[::-1],
            'y_0 and y_1 are exchanged.',
        ),
    ),
)


def _nested(d: Array, g: Array) -> Array:
    return OUTPUT @ ((KERNEL @ g @ KERNEL.T) * (INPUT @ d @ INPUT.T)) @ OUTPUT.T


f2x2 = Exercise(
    name='f2x2',
    right=_nested,
    cases=lambda: [
        (whole_numbers(4, 4), whole_numbers(3, 3, seed=1)),
        (whole_numbers(4, 4, seed=2), whole_numbers(3, 3, seed=3)),
    ],
    observe=with_multiplications,
    verified='four outputs, with 16 multiplications (the second result) in the place of 36.',
    shape='Four outputs, (2, 2); then the number of multiplications, which is counted for you.',
    wrong=(
        (
            _directly,
            'the numbers are right, but with 36 multiplications, one per term. Transform data and '
            'kernel, multiply, transform back.',
        ),
        (
            lambda d, g: np.stack([sum(_f23(d[i + k], g[k]) for k in range(3)) for i in range(2)]),
            'the numbers are right, with 24 multiplications: F(2, 3) along one axis only. '
            'Transform along the other, too.',
        ),
        (
            lambda d, g: OUTPUT @ ((KERNEL @ g @ KERNEL.T) @ (INPUT @ d @ INPUT.T)) @ OUTPUT.T,
            'the transforms are multiplied as matrices, with @. Multiply element by element: *.',
        ),
        (
            lambda d, g: OUTPUT @ ((KERNEL @ g @ KERNEL.T) * (INPUT @ d @ INPUT.T)),
            'the products are added along one axis only: A^T M A has the shape (2, 2).',
        ),
        (
            lambda d, g: _nested(d, g.T),
            'rows and columns of the kernel are exchanged. A matrix on the left transforms '
            'columns; its transpose on the right, rows.',
        ),
        (
            lambda d, g: _nested(d, g).T,
            'rows and columns of the result are exchanged.',
        ),
        (
            lambda d, g: _nested(d, g[::-1, ::-1]),
            'the kernel is flipped.',
        ),
    ),
)


def _cyclic(x: Array, w: Array) -> Array:
    """Returns the cyclic correlation, in the shape of x."""
    spectrum = np.fft.fft2(x) * np.conj(np.fft.fft2(w, x.shape))
    return np.fft.ifft2(spectrum).real


def _valid(y: Array, x: Array, w: Array) -> Array:
    return y[: x.shape[0] - w.shape[0] + 1, : x.shape[1] - w.shape[1] + 1]


def _flipped(x: Array, w: Array) -> Array:
    return np.fft.ifft2(np.fft.fft2(x) * np.fft.fft2(w, x.shape)).real


def _by_rows(x: Array, w: Array) -> Array:
    w = np.pad(w, [(0, n - k) for n, k in zip(x.shape, w.shape, strict=True)])
    return np.fft.ifft(np.fft.fft(x) * np.conj(np.fft.fft(w))).real


def _padded_before(x: Array, w: Array) -> Array:
    return _cyclic(x, np.pad(w, [(n - k, 0) for n, k in zip(x.shape, w.shape, strict=True)]))


fft_conv = Exercise(
    name='fft_conv',
    right=conv,
    cases=lambda: [
        (whole_numbers(4, 5), whole_numbers(2, 3, seed=1)),
        (whole_numbers(7, 6, seed=2), whole_numbers(3, 3, seed=3)),
        (whole_numbers(5, 5, seed=4), whole_numbers(5, 4, seed=5)),
    ],
    verified='equal to cnn_jax.conv for three sizes.',
    shape='The window fits at n - k + 1 places; the others wrapped around.',
    wrong=(
        (
            lambda x, w: _valid(_flipped(x, w), x, w),
            'a plain product of transforms convolves in the sense of mathematics, with a flipped '
            'kernel, and begins with sums that wrap around. Conjugate the transform of w.',
        ),
        (
            lambda x, w: _flipped(x, w)[w.shape[0] - 1 :, w.shape[1] - 1 :],
            'the kernel is flipped. Conjugate its transform, and keep the first places.',
        ),
        (
            lambda x, w: _cyclic(x, w)[w.shape[0] - 1 :, w.shape[1] - 1 :],
            'the wrong places are kept. The windows that wrap around begin near the end, so keep '
            'the first n - k + 1.',
        ),
        (
            _cyclic,
            'windows that wrap around are still there: keep the first n - k + 1 places.',
        ),
        (
            lambda x, w: np.abs(_valid(_cyclic(x, w), x, w)),
            'the absolute value loses signs. The imaginary part is rounding only: take .real.',
        ),
        (
            lambda x, w: _valid(np.roll(_cyclic(x, w)[::-1, ::-1], (1, 1), (0, 1)), x, w),
            'the transform of x is conjugated, which reverses the result. Conjugate that of w.',
        ),
        (
            lambda x, w: _valid(_by_rows(x, w), x, w),
            'np.fft.fft transforms the last axis only: np.fft.fft2 transforms both.',
        ),
        (
            lambda x, w: _valid(_padded_before(x, w), x, w),
            'the zeros stand before w. Element (0, 0) of w must stay at (0, 0).',
        ),
    ),
)

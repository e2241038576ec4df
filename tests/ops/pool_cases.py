"""Test cases for all pooling kernels, for values and gradients."""

import dataclasses
import math

import jax
import numpy as np

from cnn_jax.bench.fuzz import conv_oracle as oracle
from cnn_jax.bench.fuzz import pool_oracle


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of `max_pool`, `avg_pool` or `lp_pool` on x (N, *size, C)."""

    name: str
    op: str
    x: tuple[int, ...]
    window: object
    strides: object = None
    padding: object = 0
    dilation: object = 1
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int | None = None
    norm_type: float | None = None

    @property
    def ndim(self):
        return len(self.x) - 2 if isinstance(self.window, int) else len(self.window)

    @property
    def size(self):
        return self.x[-1 - self.ndim : -1]

    def each(self, name):
        value = getattr(self, name)
        return (value,) * self.ndim if isinstance(value, int) else tuple(value)

    @property
    def resolved_strides(self):
        return self.each('window') if self.strides is None else self.each('strides')

    @property
    def resolved_padding(self):
        window, dilation = self.each('window'), self.each('dilation')
        spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
        if self.padding == 'SAME':
            axes = zip(self.size, spans, self.resolved_strides, strict=True)
            return [oracle.same_padding(*axis) for axis in axes]
        if self.padding == 'VALID':
            return [(0, 0)] * self.ndim
        return [(p, p) if isinstance(p, int) else p for p in self.each('padding')]

    def axes(self):
        """Returns the windows along each spatial axis."""
        return [
            pool_oracle.axis_windows(*axis, self.ceil_mode)
            for axis in zip(
                self.size,
                self.each('window'),
                self.resolved_strides,
                self.resolved_padding,
                self.each('dilation'),
                strict=True,
            )
        ]

    def arguments(self):
        """Returns the keyword arguments of `op` that differ from its defaults, and `window`."""
        names = [f.name for f in dataclasses.fields(self)][3:]
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return {
            name: getattr(self, name)
            for name in names
            if name == 'window' or getattr(self, name) != defaults[name]
        }

    def operand(self, dtype=np.float32):
        """Returns integers with many ties for maxima, else normal values, with some 0 for norms."""
        rng = np.random.default_rng(0)
        if self.op == 'max_pool':
            return rng.integers(-2, 3, self.x).astype(dtype)
        x = rng.normal(size=self.x)
        if self.op == 'lp_pool':
            x[rng.random(self.x) < 0.2] = 0
        return x.astype(dtype)

    def expected(self, x, dy, t):
        """Returns y, the gradient for dy, and the tangent for t, from the oracle."""
        axes = self.axes()
        shape = (*x.shape[: -1 - self.ndim], *map(len, axes), x.shape[-1])
        if self.op == 'max_pool':
            y, at = pool_oracle.max_pool(x, axes)
            dx, dt = pool_oracle.put(dy, at, x.shape, self.ndim), pool_oracle.take(t, at, self.ndim)
            return y.reshape(shape), dx, dt.reshape(shape)
        divisors = pool_oracle.divisors(
            self.size, axes, self.resolved_padding, self.count_include_pad, self.divisor_override
        )
        dy = np.asarray(dy, np.float64).reshape(-1, math.prod(map(len, axes)), x.shape[-1])
        if self.op == 'avg_pool':
            y, dt = (pool_oracle.sum_pool(a, axes) / divisors for a in (x, t))
            dx = pool_oracle.sum_pool_gradient(dy / divisors, axes, x.shape)
            return y.reshape(shape), dx, dt.reshape(shape)
        p, x = self.norm_type, np.asarray(x, np.float64)
        scale = math.prod(self.each('window')) / divisors
        powers = np.abs(x) ** p
        slopes = np.where(x == 0, 0, p * np.sign(x) * np.where(x == 0, 1, np.abs(x)) ** (p - 1))
        sums = pool_oracle.sum_pool(powers, axes) * scale
        slope = np.where(sums == 0, 0, np.where(sums == 0, 1, sums) ** (1 / p - 1)) * scale / p
        dx = pool_oracle.sum_pool_gradient(dy * slope, axes, x.shape) * slopes
        dt = pool_oracle.sum_pool(slopes * t, axes) * slope
        return (sums ** (1 / p)).reshape(shape), dx, dt.reshape(shape)

    @property
    def reduction(self):
        """Length of the longest sum: over a window, or over the windows that contain an element."""
        return math.prod(self.each('window'))


def _max(name, x, window, *more, **options):
    return Case(f'max-{name}', 'max_pool', x, window, *more, **options)


def _avg(name, x, window, *more, **options):
    return Case(f'avg-{name}', 'avg_pool', x, window, *more, **options)


def _lp(name, x, window, norm_type, **options):
    return Case(f'lp-{name}', 'lp_pool', x, window, norm_type=norm_type, **options)


CASES = [
    # whole windows
    _max('1d', (2, 6, 3), (2,)),
    _max('2d', (2, 6, 4, 3), (3, 2)),
    _max('3d', (2, 4, 2, 6, 2), (2, 1, 3)),
    _max('rest unread', (2, 7, 5, 2), 2),
    _max('window of one', (2, 3, 4, 2), 1),
    _max('large window', (1, 13, 7, 2), (6, 7)),  # as large as the input on the last axis
    _max('more taps than a byte counts', (1, 300, 2), (300,)),
    # overlap and gaps
    _max('overlap', (2, 7, 6, 3), 3, strides=2),
    _max('stride 1', (2, 5, 4, 2), (3, 2), strides=1),
    _max('gaps', (2, 9, 7, 2), 2, strides=(3, 4)),
    _max('size-1 axes', (1, 1, 5, 1), (1, 2), strides=1),
    # padding
    _max('padding', (2, 7, 6, 2), 3, strides=2, padding=1),
    _max('padding per axis', (2, 5, 6, 2), (2, 4), strides=(1, 3), padding=(1, 2)),
    _max('asymmetric padding', (2, 5, 6, 2), 3, strides=2, padding=((0, 1), (2, 0))),
    _max('same', (2, 7, 6, 2), (3, 4), strides=2, padding='SAME'),
    _max('padding before whole windows', (2, 5, 7, 2), 2, padding=((1, 0), (1, 0))),
    _max('3d padding', (1, 4, 5, 3, 2), 3, strides=2, padding=1),
    # ceil_mode
    _max('ceil', (2, 7, 6, 2), (3, 2), strides=(2, 5), ceil_mode=True),
    _max('ceil whole windows', (2, 7, 6, 2), (2, 3), ceil_mode=True),
    _max('ceil padding', (2, 6, 8, 2), 3, strides=2, padding=1, ceil_mode=True),
    _max('ceil drops the window behind', (2, 4, 5, 2), 2, strides=3, padding=1, ceil_mode=True),
    _max('ceil window beyond the input', (2, 2, 3, 2), 3, strides=2, ceil_mode=True),
    # dilation
    _max('dilation', (2, 8, 7, 2), (3, 2), strides=(2, 1), dilation=(2, 3)),
    _max('dilation padding ceil', (1, 7, 9, 2), 3, 2, 2, dilation=2, ceil_mode=True),
    _max('dilation over the input', (1, 2, 4, 2), (2, 1), 1, (1, 0), dilation=(3, 1)),
    _avg('1d', (2, 6, 3), (2,)),
    _avg('2d', (2, 7, 4, 3), (3, 2)),
    _avg('3d', (2, 4, 3, 6, 2), (2, 1, 3)),
    _avg('window is the input', (2, 3, 4, 2), (3, 4)),
    _avg('large window', (1, 13, 7, 2), (6, 7)),
    _avg('overlap', (2, 7, 6, 3), 3, strides=2),
    _avg('gaps', (2, 9, 7, 2), 2, strides=(3, 4)),
    _avg('padding', (2, 7, 6, 2), 3, strides=2, padding=1),
    _avg('padding not counted', (2, 7, 6, 2), 3, 2, 1, count_include_pad=False),
    _avg('asymmetric', (2, 5, 6, 2), 3, 2, ((0, 1), (2, 0)), count_include_pad=False),
    _avg('asymmetric counted', (2, 5, 6, 2), 3, 2, ((0, 2), (2, 0)), ceil_mode=True),
    _avg('padding before whole windows', (2, 5, 7, 2), 2, padding=((1, 0), (1, 0))),
    _avg('same', (2, 7, 6, 2), (3, 4), 2, 'SAME'),
    _avg('same not counted', (2, 7, 6, 2), (3, 4), 2, 'SAME', count_include_pad=False),
    _avg('ceil', (2, 7, 6, 2), (3, 2), strides=(2, 5), ceil_mode=True),
    _avg('ceil padding', (2, 6, 8, 2), 3, 2, 1, ceil_mode=True),
    _avg('ceil not counted', (2, 6, 8, 2), 3, 2, 1, ceil_mode=True, count_include_pad=False),
    _avg('ceil drops the window behind', (2, 4, 5, 2), 2, 3, 1, ceil_mode=True),
    _avg('divisor', (2, 7, 6, 2), 3, 2, 1, divisor_override=5),
    _avg('negative divisor', (2, 4, 6, 2), 2, divisor_override=-2),
    _avg('dilation', (2, 8, 7, 2), (3, 2), strides=(2, 1), dilation=(2, 3)),
    _avg('dilation whole windows', (2, 6, 4, 2), 2, dilation=2),
    _avg('dilation padding ceil', (1, 7, 9, 2), 3, 2, 2, dilation=2, ceil_mode=True),
    _avg('dilation not counted', (1, 7, 9, 2), 3, 2, 2, 2, True, count_include_pad=False),
    _avg('dilation divisor', (1, 5, 6, 2), 2, 1, 1, dilation=3, divisor_override=3),
    _avg('dilation over the input', (1, 2, 4, 2), (2, 1), 1, (1, 0), dilation=(3, 1)),
    _lp('2', (2, 6, 4, 3), (3, 2), 2),
    _lp('1d 3', (2, 7, 3), (2,), 3.0, strides=3),
    _lp('1.5', (2, 5, 4, 2), 2, 1.5, strides=1),
    _lp('1 3d', (1, 4, 3, 2, 2), (2, 3, 1), 1),
    _lp('ceil', (2, 5, 6, 2), (2, 4), 2, ceil_mode=True),
    _lp('0.5', (2, 5, 4, 2), 2, 0.5, strides=1),
    _lp('3 dilation padding', (1, 6, 5, 2), 2, 3, strides=1, padding=1, dilation=2),
    _lp('2.5 padding ceil', (2, 6, 8, 2), 3, 2.5, strides=2, padding=1, ceil_mode=True),
]


def everything(run):
    """Returns a jitted function (x, dy, t) -> (value, gradient for dy, tangent for t, value).

    The second value is that of a call without derivatives, which may take another way.
    """

    @jax.jit
    def compute(x, dy, t):
        y, tangent = jax.linearize(run, x)
        return y, jax.linear_transpose(tangent, x)(dy)[0], tangent(t), run(x)

    return compute

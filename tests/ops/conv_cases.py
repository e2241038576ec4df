"""Test cases for all convolution kernels, for values and gradients."""

import dataclasses
import math

import numpy as np

from cnn_jax.bench.fuzz import conv_oracle as oracle


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of `conv`: x (N, *size, C), kernel (*window, C // groups, O)."""

    name: str
    x: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: object = 1
    padding: object = 'VALID'
    dilation: object = 1
    input_dilation: object = 1
    groups: int = 1
    padding_mode: str = 'zeros'

    @property
    def ndim(self):
        return len(self.kernel) - 2

    @property
    def reduction(self):
        """Length of the longest sum: over a window, an input's outputs, or all positions."""
        window = math.prod(self.kernel[:-1])
        outputs = self.kernel[-1] // self.groups * math.prod(self.kernel[:-2])
        return max(window, outputs, math.prod(self.x[:-1]))

    def arguments(self):
        return {
            'strides': self.strides,
            'padding': self.padding,
            'dilation': self.dilation,
            'input_dilation': self.input_dilation,
            'groups': self.groups,
            'padding_mode': self.padding_mode,
        }

    def resolved(self):
        """Returns the arguments for the oracle: one int, or one pair, per axis."""
        each = {
            name: (value,) * self.ndim if isinstance(value, int) else value
            for name in ('strides', 'dilation', 'input_dilation')
            for value in [getattr(self, name)]
        }
        size = [(n - 1) * e + 1 for n, e in zip(self.x[1:-1], each['input_dilation'], strict=True)]
        window = [(k - 1) * d + 1 for k, d in zip(self.kernel, each['dilation'], strict=False)]
        if self.padding in ('SAME', 'SAME_LOWER'):
            padding = [
                oracle.same_padding(n, k, s, lower=self.padding == 'SAME_LOWER')
                for n, k, s in zip(size, window, each['strides'], strict=True)
            ]
        elif self.padding == 'CAUSAL':
            padding = [(window[0] - 1, 0)]
        elif self.padding == 'VALID':
            padding = [(0, 0)] * self.ndim
        elif isinstance(self.padding, int):
            padding = [(self.padding,) * 2] * self.ndim
        else:
            padding = [(p, p) if isinstance(p, int) else p for p in self.padding]
        return {**each, 'padding': padding, 'groups': self.groups, 'mode': self.padding_mode}

    def operands(self, dtype=np.float32, seed=0):
        rng = np.random.default_rng(seed)
        if np.issubdtype(dtype, np.integer):
            return [rng.integers(-4, 5, size).astype(dtype) for size in (self.x, self.kernel)]
        return [rng.normal(size=size).astype(dtype) for size in (self.x, self.kernel)]


CASES = [
    # input and window sizes
    Case('1d', (2, 9, 3), (3, 3, 4)),
    Case('2d', (2, 7, 6, 3), (3, 2, 3, 4)),
    Case('3d', (2, 4, 5, 3, 2), (2, 3, 2, 2, 3)),
    Case('2d 1x1', (3, 4, 5, 6), (1, 1, 6, 4)),
    Case('1d window 1', (2, 8, 3), (1, 3, 5)),
    Case('2d 1x1 strided', (2, 5, 6, 3), (1, 1, 3, 4), strides=2),
    Case('2d 1x1 padded', (2, 3, 3, 2), (1, 1, 2, 3), padding=1),
    Case('2d window equals input', (2, 4, 3, 2), (4, 3, 2, 5)),
    Case('2d even window', (1, 6, 6, 2), (2, 4, 2, 2), padding='SAME'),
    Case('2d long window', (2, 3, 17, 2), (1, 11, 2, 3), padding='SAME'),
    Case('2d 7x7', (1, 9, 9, 2), (7, 7, 2, 2), padding=3),
    # strides
    Case('2d strides', (2, 8, 9, 3), (3, 3, 3, 2), strides=(2, 3), padding=1),
    Case('2d stride leaves a rest', (2, 8, 7, 2), (3, 2, 2, 3), strides=(3, 2)),
    Case('2d stride above window', (2, 11, 9, 2), (2, 1, 2, 3), strides=(3, 4)),
    Case('1d stride', (2, 20, 1), (8, 1, 4), strides=4, padding=3),
    Case('3d stride', (1, 5, 4, 5, 2), (3, 2, 3, 2, 2), strides=(2, 1, 2), padding='SAME'),
    # padding
    Case('2d same 3x3', (2, 5, 6, 3), (3, 3, 3, 4), padding='SAME'),
    Case('1d same window 3', (2, 7, 3), (3, 3, 4), padding='SAME'),
    Case('3d same window 3', (1, 3, 4, 5, 2), (3, 3, 3, 2, 3), padding='SAME'),
    Case('2d 3x3 odd outputs', (2, 7, 5, 2), (3, 3, 2, 3)),
    Case('2d same stride', (2, 7, 8, 2), (4, 3, 2, 3), strides=2, padding='SAME'),
    Case('2d same lower', (2, 6, 5, 2), (4, 2, 2, 3), padding='SAME_LOWER'),
    Case('2d same lower stride', (2, 8, 7, 2), (3, 4, 2, 3), strides=2, padding='SAME_LOWER'),
    Case('1d causal', (2, 9, 2), (3, 2, 3), padding='CAUSAL', dilation=2),
    Case('2d asymmetric', (2, 5, 4, 2), (3, 2, 2, 3), padding=((2, 0), (1, 3))),
    Case('2d 3x3 asymmetric', (2, 5, 4, 2), (3, 3, 2, 3), padding=((0, 2), (3, 1))),
    Case('2d pairs and stride', (2, 6, 5, 2), (3, 3, 2, 3), strides=2, padding=((0, 1), (2, 1))),
    Case('2d per axis', (2, 5, 4, 2), (3, 2, 2, 3), padding=(2, 0)),
    Case('2d padding beyond the window', (1, 3, 4, 2), (2, 2, 2, 3), padding=((3, 4), (2, 3))),
    Case('2d crop', (2, 7, 8, 2), (3, 2, 2, 3), padding=((-1, 2), (0, -2))),
    Case('1d crop of a dilated input', (2, 6, 2), (3, 2, 3), padding=((-2, -1),), input_dilation=3),
    # dilation
    Case('2d dilation', (2, 8, 9, 2), (3, 2, 2, 3), dilation=(2, 3), padding=2),
    Case('2d dilation and stride', (2, 9, 10, 2), (3, 3, 2, 3), dilation=2, strides=3, padding=1),
    Case('2d dilation equals stride', (2, 9, 8, 2), (3, 2, 2, 3), dilation=2, strides=2),
    Case('2d dilation shares a factor', (1, 17, 16, 2), (3, 2, 2, 2), (6, 4), dilation=(4, 6)),
    Case('2d input dilation', (2, 4, 3, 2), (3, 3, 2, 3), input_dilation=(2, 3), padding=1),
    Case('2d input dilation and stride', (2, 4, 5, 2), (2, 3, 2, 3), input_dilation=2, strides=3),
    Case('1d all dilations', (2, 6, 2), (3, 2, 3), input_dilation=2, dilation=3, padding=(2,)),
    # groups
    Case('2d groups', (2, 5, 6, 4), (3, 3, 2, 6), groups=2, padding='SAME'),
    Case('1d groups', (2, 9, 6), (4, 2, 3), groups=3, strides=2),
    Case('2d depthwise', (2, 6, 5, 4), (3, 3, 1, 4), groups=4, padding='SAME'),
    Case('2d depthwise strided', (2, 7, 8, 3), (3, 2, 1, 3), groups=3, strides=2, padding=1),
    Case('2d depthwise multiplier', (2, 5, 5, 3), (3, 3, 1, 6), groups=3, padding='SAME'),
    Case('2d depthwise in blocks of rows', (2, 37, 3, 3), (3, 2, 1, 3), (2, 1), 1, groups=3),
    Case('2d depthwise dilated', (1, 7, 7, 2), (3, 3, 1, 4), groups=2, dilation=2, padding=2),
    Case('3d depthwise', (1, 3, 4, 4, 3), (2, 3, 2, 1, 3), groups=3, padding='SAME'),
    Case('2d groups 1x1', (2, 3, 4, 4), (1, 1, 2, 6), groups=2),
    # many features: im2col builds one matrix of all taps instead of one row per feature
    Case('1d many features', (2, 9, 17), (3, 17, 18), strides=2, padding=1),
    Case('2d many features', (3, 5, 6, 16), (3, 2, 16, 17), padding=((1, 0), (1, 1))),
    Case('2d many features 3x3', (2, 5, 6, 16), (3, 3, 16, 16), padding='SAME'),
    Case('2d many features dilated', (2, 7, 8, 16), (2, 3, 16, 17), strides=(2, 1), dilation=2),
    Case('2d many features, input dilated', (2, 3, 4, 16), (3, 2, 16, 17), input_dilation=2),
    Case('3d many features', (2, 3, 4, 4, 16), (2, 2, 3, 16, 17), padding=1),
    # degenerate sizes
    Case('2d batch 0', (0, 5, 5, 2), (3, 3, 2, 3), padding='SAME'),
    Case('2d one pixel', (2, 1, 1, 3), (1, 1, 3, 2)),
    Case('2d one pixel padded', (2, 1, 1, 3), (3, 3, 3, 2), padding=1),
    Case('2d one feature', (2, 5, 4, 1), (3, 3, 1, 1), padding='SAME'),
    Case('2d size-1 axis', (2, 1, 8, 2), (1, 3, 2, 3)),
    Case('1d one position left', (1, 3, 2), (3, 2, 1)),
    # padding modes
    Case('2d reflect', (2, 5, 6, 2), (3, 3, 2, 3), 1, ((2, 1), (1, 2)), padding_mode='reflect'),
    Case('2d replicate', (2, 5, 4, 2), (3, 3, 2, 3), padding=2, padding_mode='replicate'),
    Case('2d circular', (2, 5, 6, 2), (3, 3, 2, 3), padding='SAME', padding_mode='circular'),
    Case('1d circular strided', (2, 8, 2), (3, 2, 3), 2, (2,), padding_mode='circular'),
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TransposedCase:
    """A call of `conv_transpose`: x (N, *size, C), kernel (*window, C // groups, O).

    `crops` is the number of positions cropped from each side of the full output, per axis. It is
    written by hand from the definition of the convention.
    """

    name: str
    x: tuple[int, ...]
    kernel: tuple[int, ...]
    crops: tuple[tuple[int, int], ...]
    arguments: dict = dataclasses.field(default_factory=dict)
    strides: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    flip: bool = False

    @property
    def ndim(self):
        return len(self.kernel) - 2

    def call_arguments(self):
        own = {'strides': self.each('strides'), 'dilation': self.each('dilation')}
        return {**own, 'groups': self.groups, 'padding': 0, **self.arguments}

    def each(self, name):
        return getattr(self, name) or (1,) * self.ndim

    operands = Case.operands

    def expected(self, x, w):
        if self.flip:
            w = np.flip(w, range(self.ndim))
        return oracle.conv_transpose(
            x,
            w,
            strides=self.each('strides'),
            crops=self.crops,
            dilation=self.each('dilation'),
            groups=self.groups,
        )

    @property
    def reduction(self):
        return max(math.prod(self.kernel[:-1]), math.prod(self.x[:-1]) * self.kernel[-1])


T = TransposedCase
TRANSPOSED_CASES = [
    T('1d', (2, 5, 3), (3, 3, 4), ((0, 0),)),
    T('2d', (2, 4, 3, 3), (3, 2, 3, 4), ((0, 0), (0, 0))),
    T('3d', (1, 2, 3, 2, 2), (2, 3, 2, 2, 3), ((0, 0),) * 3, strides=(2, 1, 2)),
    T('2d stride 2', (2, 4, 3, 3), (3, 3, 3, 2), ((0, 0), (0, 0)), strides=(2, 2)),
    T('2d k4 s2 p1', (2, 3, 4, 3), (4, 4, 3, 2), ((1, 1), (1, 1)), {'padding': 1}, (2, 2)),
    T('2d stride above window', (2, 3, 3, 2), (2, 1, 2, 3), ((0, 0), (0, 0)), {}, (3, 4)),
    T('2d padding', (2, 5, 5, 2), (3, 4, 2, 3), ((1, 1), (2, 2)), {'padding': (1, 2)}, (2, 1)),
    T('2d pairs', (2, 4, 5, 2), (3, 3, 2, 3), ((0, 2), (1, 0)), {'padding': ((0, 2), (1, 0))},
      (2, 2)),
    T('2d output padding', (2, 4, 3, 2), (3, 3, 2, 3), ((1, 0), (1, 0)),
      {'padding': 1, 'output_padding': 1}, (2, 2)),
    T('2d output padding beyond the crop', (2, 3, 4, 2), (2, 3, 2, 3), ((0, -2), (0, -1)),
      {'output_padding': (2, 1)}, (3, 2)),
    T('2d output padding by dilation', (2, 3, 4, 2), (2, 3, 2, 3), ((0, -2), (1, -1)),
      {'padding': (0, 1), 'output_padding': 2}, (1, 2), (3, 3)),
    T('2d output size', (2, 4, 3, 2), (3, 3, 2, 3), ((1, 0), (1, 1)),
      {'padding': 1, 'output_size': (8, 5)}, (2, 2)),
    T('2d dilation', (2, 4, 3, 2), (3, 2, 2, 3), ((0, 0), (0, 0)), {}, (1, 2), (2, 3)),
    T('2d dilation and stride', (2, 4, 5, 2), (3, 3, 2, 3), ((2, 2), (2, 2)), {'padding': 2},
      (3, 2), (2, 2)),
    T('2d groups', (2, 3, 4, 4), (3, 2, 2, 6), ((0, 0), (0, 0)), {}, (2, 2), groups=2),
    T('2d depthwise', (2, 3, 4, 3), (4, 4, 1, 3), ((1, 1), (1, 1)), {'padding': 1}, (2, 2),
      groups=3),
    T('2d depthwise multiplier', (2, 3, 4, 2), (3, 3, 1, 4), ((1, 1), (1, 1)), {'padding': 1},
      (1, 1), groups=2),
    T('1d groups', (2, 5, 4), (5, 2, 4), ((0, 0),), {}, (3,), groups=2),
    T('2d many features', (2, 3, 4, 17), (3, 2, 17, 16), ((0, 0), (0, 0)), {}, (2, 2)),
    T('2d 1x1', (2, 3, 4, 3), (1, 1, 3, 2), ((0, 0), (0, 0))),
    T('2d batch 0', (0, 3, 4, 2), (3, 3, 2, 3), ((0, 0), (0, 0)), {}, (2, 2)),
    T('2d one pixel', (2, 1, 1, 3), (4, 4, 3, 2), ((0, 0), (0, 0)), {}, (2, 2)),
    T('2d padding beyond the window', (1, 5, 5, 2), (2, 2, 2, 3), ((2, 3), (2, 2)),
      {'padding': ((2, 3), (2, 2))}),
    T('2d same', (2, 4, 3, 2), (4, 3, 2, 3), ((1, 1), (0, 1)), {'padding': 'SAME'}, (2, 2)),
    T('2d same 3x3 s1', (2, 4, 3, 2), (3, 3, 2, 3), ((1, 1), (1, 1)), {'padding': 'SAME'}),
    T('2d same window below stride', (2, 3, 3, 2), (2, 1, 2, 3), ((0, -1), (0, -3)),
      {'padding': 'SAME'}, (3, 4)),
    T('keras same', (2, 4, 3, 2), (5, 4, 2, 3), ((1, 2), (0, 1)),
      {'padding': 'SAME', 'convention': 'keras'}, (2, 3)),
    T('keras valid window below stride', (2, 3, 4, 2), (2, 5, 2, 3), ((0, -1), (0, 0)),
      {'padding': 'VALID', 'convention': 'keras'}, (3, 2)),
    T('lax same', (2, 4, 3, 2), (5, 4, 2, 3), ((1, 2), (0, 1)),
      {'padding': 'SAME', 'convention': 'lax'}, (2, 3), flip=True),
    T('lax valid', (2, 3, 4, 2), (2, 5, 2, 3), ((0, -1), (0, 0)),
      {'padding': 'VALID', 'convention': 'lax'}, (3, 2), flip=True),
    T('lax pairs', (2, 4, 3, 2), (3, 3, 2, 3), ((1, 0), (0, -2)),
      {'padding': ((1, 2), (2, 4)), 'convention': 'lax'}, (2, 2), flip=True),
    T('lax wide pairs', (1, 2, 3, 2), (3, 3, 2, 3), ((-2, 1), (1, -4)),
      {'padding': ((4, 1), (1, 6)), 'convention': 'lax'}, (2, 2), flip=True),
]  # fmt: skip

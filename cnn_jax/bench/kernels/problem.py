"""Reads and writes convolution problems as short strings in the style of oneDNN's benchdnn.

    mb64_ic32ih28oc64kh3sh1ph1            2-D, 28x28x32 -> 28x28x64, window 3x3, padding 1
    mb16_ic1iw8000oc64kw80sw4             1-D
    mb2_ic3id16oc8kd3pd1                  3-D, 16x16x16
    g128mb16_ic128ih56oc128kh3ph1         depthwise: 128 groups
    conv_transpose:mb32_ic256ih8oc128kh4sh2ph1    8x8 -> 16x16
    max_pool:mb64_ic64ih28kh2sh2          pools: no oc

`mb` is the batch size, `g` the number of groups, and `ic` and `oc` are the channels. The letters
`i`, `o`, `k`, `s`, `p`, `d` stand for input, output, window, stride, padding and dilation; an axis
`d`, `h` or `w` follows them. Underscores are ignored, and the order is free. An omitted axis equals
the one before it (`ih28` alone is 28x28). Strides default to 1, padding and dilation to 0. Dilation
counts the holes: `dh1` is what frameworks call 2. The output size is computed if it is omitted. If
given, it is checked, and it sets the padding after the last element where the two sides differ.
Source: oneDNN, tests/benchdnn/doc/driver_conv.md.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from cnn_jax.errors import UserError
from cnn_jax.ops.spec import ConvSpec, dilated

OPS = ('conv', 'conv_transpose', 'max_pool', 'avg_pool')
POOLS = ('max_pool', 'avg_pool')
AXES = 'dhw'

_TOKEN = re.compile(r'(mb|ic|oc|g|[iokspd][dhw])(\d+)')


@dataclasses.dataclass(frozen=True)
class Problem:
    """One call of an operation. Sizes are tuples with one entry per spatial axis.

    For a transposed convolution, `input_size` is the size of its own input and `padding` is the
    amount cropped from its output. A pool has `out_features == in_features`.
    """

    op: str
    batch: int
    input_size: tuple[int, ...]
    in_features: int
    window: tuple[int, ...]
    out_features: int
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    output_size: tuple[int, ...]
    groups: int = 1

    @property
    def ndim(self) -> int:
        return len(self.window)

    @property
    def output_padding(self) -> tuple[int, ...]:
        """What a transposed convolution adds at the end of each axis to reach `output_size`."""
        if self.op != 'conv_transpose':
            return (0,) * self.ndim
        axes = zip(
            self.output_size,
            self.input_size,
            self.strides,
            map(dilated, self.window, self.dilation),
            self.padding,
            strict=True,
        )
        return tuple(o - ((n - 1) * s + k - lo - hi) for o, n, s, k, (lo, hi) in axes)

    def spec(self, dtype: str = 'float32', precision=None) -> ConvSpec:
        """Returns the ConvSpec of the convolution; int8 operands have an int32 result.

        For a transposed convolution, it describes the convolution that is transposed.

        Raises:
            ValueError: the problem is a pool.
        """
        if self.op in POOLS:
            raise UserError(f'{self.op} is not a convolution and has no ConvSpec')
        swapped = self.op == 'conv_transpose'
        spec = ConvSpec(
            batch=self.batch,
            input_size=self.output_size if swapped else self.input_size,
            in_features=self.out_features if swapped else self.in_features,
            window=self.window,
            out_features=self.in_features if swapped else self.out_features,
            strides=self.strides,
            padding=self.padding,
            input_dilation=(1,) * self.ndim,
            dilation=self.dilation,
            groups=self.groups,
            dtype='int32' if dtype == 'int8' else dtype,
            precision=precision,
            operand_dtype=dtype if dtype == 'int8' else None,
        )
        return spec

    @property
    def macs(self) -> int:
        """Multiply-accumulates (for a pool, elements read); the same for every pass."""
        if self.op in POOLS:
            outputs = self.batch * self.in_features * math.prod(self.output_size)
            return outputs * math.prod(self.window)
        return self.spec().macs

    @property
    def flops(self) -> int:
        """Operations per pass: two per multiply-accumulate, or one per element read by a pool."""
        return self.macs if self.op in POOLS else 2 * self.macs

    def bytes(self, itemsize: int) -> int:
        """Returns the minimum bytes moved: operands are read and the result is written once."""
        sizes = [
            self.batch * math.prod(self.input_size) * self.in_features,
            self.batch * math.prod(self.output_size) * self.out_features,
        ]
        if self.op not in POOLS:
            sizes.append(
                math.prod(self.window) * self.in_features * self.out_features // self.groups
            )
        return itemsize * sum(sizes)

    def replace(self, **changes) -> 'Problem':
        return dataclasses.replace(self, **changes)

    def __str__(self) -> str:
        low = tuple(lo for lo, _ in self.padding)
        axes = AXES[-self.ndim :]
        parts = ['' if self.op == 'conv' else f'{self.op}:']
        parts.append(f'g{self.groups}' if self.groups > 1 else '')
        parts.append(f'mb{self.batch}_ic{self.in_features}')
        parts.append(_write('i', axes, self.input_size, None))
        if self.op not in POOLS:
            parts.append(f'oc{self.out_features}')
        parts.append(_write('k', axes, self.window, None))
        parts.append(_write('s', axes, self.strides, 1))
        parts.append(_write('p', axes, low, 0))
        parts.append(_write('d', axes, tuple(d - 1 for d in self.dilation), 0))
        if self.output_size != self._default_output():
            parts.append(_write('o', axes, self.output_size, None))
        return ''.join(parts)

    def _default_output(self) -> tuple[int, ...]:
        """Returns the output size that a string without one would imply."""
        sizes = []
        for n, k, s, d, (p, _) in zip(
            self.input_size, self.window, self.strides, self.dilation, self.padding, strict=True
        ):
            span = dilated(k, d)
            if self.op == 'conv_transpose':
                sizes.append((n - 1) * s + span - 2 * p)
            else:
                sizes.append((n + 2 * p - span) // s + 1)
        return tuple(sizes)


def _write(letter, axes, values, default):
    if default is not None and set(values) == {default}:
        return ''
    if len(set(values)) == 1:
        axes, values = axes[:1], values[:1]
    return ''.join(f'{letter}{axis}{value}' for axis, value in zip(axes, values, strict=True))


def parse(text: str) -> Problem:
    """Reads a problem string.

    Raises:
        ValueError: the string is malformed, incomplete or impossible; the message quotes the string
            and names the fault.
    """
    try:
        return _parse(text)
    except ValueError as error:
        raise UserError(f'problem {text!r}: {error}') from None


def _parse(text: str) -> Problem:
    op, _, body = text.rpartition(':')
    op = op or 'conv'
    if op not in OPS:
        raise UserError(f'unknown operation {op!r}; must be one of {", ".join(OPS)}')
    return from_values(op, _tokens(body))


def from_values(op: str, values: Mapping[str, int]) -> Problem:
    """Returns the problem whose letters have these values, for example {'ic': 3, 'ih': 8, ...}.

    Raises:
        ValueError: a value is missing or impossible.
    """
    axes = _axes(values)
    read = lambda letter, default: _sizes(values, letter, axes, default)  # noqa: E731
    window, size = read('k', None), read('i', None)
    strides, low = read('s', 1), read('p', 0)
    dilation = tuple(d + 1 for d in read('d', 0))
    given = read('o', -1) if any(f'o{a}' in values for a in axes) else None

    groups, batch = values.get('g', 1), values.get('mb', 1)
    features = _required(values, 'ic')
    if op in POOLS:
        if 'oc' in values and values['oc'] != features:
            raise UserError(f'a pool does not change the channels: omit oc{values["oc"]}')
        out_features = features
    else:
        out_features = _required(values, 'oc')
    positive = {'mb': batch, 'g': groups, 'ic': features, 'oc': out_features}
    for letter, sizes in (('i', size), ('k', window), ('s', strides)):
        positive |= {f'{letter}{a}': v for a, v in zip(axes, sizes, strict=True)}
    for name, value in positive.items():
        if value < 1:
            raise UserError(f'{name}{value} must be at least 1')
    if features % groups or out_features % groups:
        raise UserError(f'g{groups} must divide ic{features} and oc{out_features}')

    solve = _transposed_axis if op == 'conv_transpose' else _axis
    solved = [
        solve(axis, n, k, s, p, d, o)
        for axis, n, k, s, p, d, o in zip(
            axes, size, window, strides, low, dilation, given or (None,) * len(axes), strict=True
        )
    ]
    return Problem(
        op=op,
        batch=batch,
        input_size=size,
        in_features=features,
        window=window,
        out_features=out_features,
        strides=strides,
        padding=tuple((p, high) for p, (high, _) in zip(low, solved, strict=True)),
        dilation=dilation,
        output_size=tuple(output for _, output in solved),
        groups=groups,
    )


def _tokens(body: str) -> dict[str, int]:
    values, position = {}, 0
    body = body.replace('_', '')
    while position < len(body):
        match = _TOKEN.match(body, position)
        if not match:
            raise UserError(
                f'cannot read {body[position:]!r}; write, for example, mb64_ic32ih28oc64kh3sh1ph1'
            )
        if match[1] in values:
            raise UserError(f'{match[1]} is given twice')
        values[match[1]] = int(match[2])
        position = match.end()
    return values


def _axes(values) -> str:
    """Returns the spatial axes, starting at the first axis that an input or window size names."""
    named = [name for name in values if name[1:] in ('d', 'h', 'w')]
    sizes = [AXES.index(name[1]) for name in named if name[0] in 'ik']
    if not sizes:
        raise UserError('no input size: give iw (1-D), ih (2-D) or id (3-D)')
    first = min(sizes)
    for name in named:
        if AXES.index(name[1]) < first:
            raise UserError(f'{name} names an axis that the input does not have')
    return AXES[first:]


def _sizes(values, letter, axes, default) -> tuple[int, ...]:
    result = []
    for axis in axes:
        previous = result[-1] if result else default
        value = values.get(f'{letter}{axis}', previous)
        if value is None:
            raise UserError(f'{letter}{axis} is missing')
        result.append(value)
    return tuple(result)


def _required(values, name) -> int:
    if name not in values:
        raise UserError(f'{name} is missing')
    return values[name]


def _axis(axis, n, k, s, p, d, o) -> tuple[int, int]:
    """Returns (padding after, output size) for one axis of a convolution or pool."""
    span = dilated(k, d)
    positions = lambda high: (n + p + high - span) // s + 1  # noqa: E731
    if n + 2 * p < span and o is None:
        raise UserError(
            f'the window spans {span} on axis {axis}, but the padded input has {n + 2 * p}'
        )
    if o is None or positions(p) == o:
        return p, positions(p)
    high = max(0, (o - 1) * s + span - n - p)
    if o < 1 or positions(high) != o:
        raise UserError(f'o{axis}{o} is impossible: with p{axis}{p} it is o{axis}{positions(p)}')
    return high, o


def _transposed_axis(axis, n, k, s, p, d, o) -> tuple[int, int]:
    """Returns (crop after, output size) for one axis of a transposed convolution."""
    full = (n - 1) * s + dilated(k, d)
    if o is None:
        o = full - 2 * p
    if o < 1:
        raise UserError(f'p{axis}{p} crops everything: the uncropped output has size {full}')
    # Output sizes full - 2 p to full - 2 p + s - 1 share an input size; PyTorch tells them apart
    # by output_padding.
    fits = lambda high: 0 <= o - (full - p - high) < s  # noqa: E731
    high = p if fits(p) else max(0, full - p - o)
    if not fits(high):
        raise UserError(
            f'o{axis}{o} is impossible: without a crop it is at most {full - p + s - 1}'
        )
    return high, o


def from_spec(spec: ConvSpec, op: str = 'conv') -> Problem:
    """Returns the problem that a ConvSpec describes, or its transpose if `op` is 'conv_transpose'.

    Raises:
        ValueError: the spec has an input dilation, which problem strings cannot express.
    """
    if set(spec.input_dilation) != {1}:
        raise UserError(f'a problem string cannot express input_dilation={spec.input_dilation}')
    swapped = op == 'conv_transpose'
    return Problem(
        op=op,
        batch=spec.batch,
        input_size=spec.output_size if swapped else spec.input_size,
        in_features=spec.out_features if swapped else spec.in_features,
        window=spec.window,
        out_features=spec.in_features if swapped else spec.out_features,
        strides=spec.strides,
        padding=spec.padding,
        dilation=spec.dilation,
        output_size=spec.input_size if swapped else spec.output_size,
        groups=spec.groups,
    )

"""Random calls of `cnn_jax.conv_transpose`, with its conventions and output padding."""

import random
from typing import Any

import numpy as np

import cnn_jax

from . import conv_oracle, oracle
from .our_conv import KERNELS, bias, lengthen

Spec = dict[str, Any]

OPERANDS = 2


def draw(r: random.Random) -> Spec:
    n = r.choice((1, 1, 2, 2, 3))
    some = lambda low, high: [r.randint(low, high) for _ in range(n)]  # noqa: E731
    groups = r.choice((1, 1, 2, 3))
    spec = {
        'batch': r.randint(1, 2),
        'size': some(1, (0, 7, 4, 3)[n]),
        'window': some(1, 4),
        'in_features': groups * r.randint(1, 3),
        'out_features': groups * r.randint(1, 2),
        'strides': some(1, 3),
        'dilation': [r.choice((1, 1, 2)) for _ in range(n)],
        'groups': groups,
        'bias': r.random() < 0.3,
        'convention': r.choice(('torch', 'torch', 'keras', 'lax')),
        'output_padding': [0] * n,
        'implementation': r.choice(KERNELS),
    }
    if n < 3 and r.random() < 0.25:
        lengthen(r, spec)
    forms = {'torch': ('SAME', 'VALID', 'pairs'), 'keras': ('SAME', 'VALID')}
    form = r.choice(forms.get(spec['convention'], ('VALID', 'pairs')))
    spec['padding'] = form
    spans = oracle.spans(spec)
    if form == 'pairs' and spec['convention'] == 'torch':
        spec['padding'] = [[r.randint(0, (d - 1) // 2), r.randint(0, d // 2)] for d in spans]
        spec['output_padding'] = [r.randint(0, max(s - 1, 0)) for s in spec['strides']]
    elif form == 'pairs':
        spec['padding'] = [[r.randint(d - 1, d), r.randint(d - 1, d)] for d in spans]
    return spec


def crops(spec: Spec) -> list[tuple[int, int]]:
    """Returns how much of the full result is cut off at both ends of each axis."""
    form, found = spec['padding'], []
    axes = zip(oracle.spans(spec), spec['strides'], spec['output_padding'], strict=True)
    for axis, (span, stride, extra) in enumerate(axes):
        if form == 'SAME':
            total = span - stride
            lo = max(total, 0) // 2
            pair = (lo, total - lo)
        elif form == 'VALID':
            pair = (0, 0) if spec['convention'] == 'torch' else (0, min(0, span - stride))
        elif spec['convention'] == 'lax':
            pair = tuple(span - 1 - p for p in form[axis])
        else:
            pair = tuple(form[axis])
        found.append((pair[0], pair[1] - extra))
    return found


def _full(spec):
    axes = zip(spec['size'], spec['strides'], oracle.spans(spec), strict=True)
    return [(n - 1) * s + d for n, s, d in axes]


def shapes(spec: Spec) -> list[tuple[int, ...]]:
    x = (spec['batch'], *spec['size'], spec['in_features'])
    return [x, (*spec['window'], spec['in_features'] // spec['groups'], spec['out_features'])]


def output_shape(spec: Spec) -> tuple[int, ...]:
    size = [n - lo - hi for n, (lo, hi) in zip(_full(spec), crops(spec), strict=True)]
    return (spec['batch'], *size, spec['out_features'])


def apply(spec: Spec, out: Any, x: Any, w: Any) -> Any:
    name, padding = spec['implementation'], spec['padding']
    return cnn_jax.conv_transpose(
        x, w, strides=spec['strides'], dilation=spec['dilation'], groups=spec['groups'],
        padding=[tuple(p) for p in padding] if isinstance(padding, list) else padding,
        output_padding=spec['output_padding'], convention=spec['convention'],
        bias=bias(spec, x.dtype), preferred_element_type=out,
        implementation=(name, 'lax') if name else None,
    )  # fmt: skip


def _turned(spec, w):
    return np.flip(w, range(w.ndim - 2)) if spec['convention'] == 'lax' else w


def forward(spec: Spec, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    y = conv_oracle.conv_transpose(
        x, _turned(spec, w), strides=spec['strides'], crops=crops(spec),
        dilation=spec['dilation'], groups=spec['groups'],
    )  # fmt: skip
    return (y + bias(spec, y.dtype) if spec['bias'] else y).astype(x.dtype)


def pushforward(spec: Spec, operands, tangents) -> np.ndarray:
    (a, b), (da, db), linear = operands, tangents, {**spec, 'bias': False}
    return forward(linear, da, b) + forward(linear, a, db)


def pullback(spec: Spec, operands, dy: np.ndarray) -> list[np.ndarray]:
    """The transpose is a convolution of the uncropped dy, with the features exchanged."""
    x, w = operands
    groups, w = spec['groups'], _turned(spec, w)
    full = oracle.Window(
        tuple(n for n in dy.shape[1:-1]), tuple(spec['window']), tuple(spec['strides']),
        tuple(crops(spec)), tuple(spec['dilation']), (1,) * len(spec['size']),
    )  # fmt: skip
    dx = oracle.conv(dy, _exchanged(w, groups), full, groups)
    shape = (*w.shape[:-2], w.shape[-1] // groups, x.shape[-1])
    dw = _exchanged(oracle.conv_filter_grad(dy, x, shape, full, groups), groups)
    return [dx, _turned(spec, dw)]


def _exchanged(w, groups):
    """(*window, a, g b) -> (*window, b, g a), within each group."""
    w = w.reshape(*w.shape[:-1], groups, w.shape[-1] // groups)
    w = np.moveaxis(w, -1, -3)  # (*window, b, a, g)
    return np.swapaxes(w, -1, -2).reshape(*w.shape[:-2], -1)

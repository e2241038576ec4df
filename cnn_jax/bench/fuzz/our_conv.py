"""Random calls of `cnn_jax.conv`, with every form of its arguments."""

import random
from typing import Any

import numpy as np

import cnn_jax
from cnn_jax.ops.kernels import KERNELS as registry

from . import conv_oracle, oracle

Spec = dict[str, Any]

OPERANDS = 2
# Those for one platform alone do not run here.
KERNELS = (None, *(name for name in registry if not hasattr(registry[name], 'PLATFORM')))


def draw(r: random.Random) -> Spec:
    n = r.choice((1, 1, 2, 2, 2, 3))
    most = (0, 9, 7, 4)[n]
    some = lambda low, high: [r.randint(low, high) for _ in range(n)]  # noqa: E731
    rare = lambda *more: [r.choice((1, 1, *more)) for _ in range(n)]  # noqa: E731
    groups = r.choice((1, 1, 1, 2, 3))
    many = r.random() < 0.25  # long sums show how they are accumulated
    per_group = r.choice((1, 1, 2, 3)) if not many else 40, r.choice((1, 2, 3))
    spec = {
        'batch': r.choice(([], [1], [2], [3], [2, 2])),
        'size': some(2, most),
        'window': some(1, 4) if r.random() < 0.6 else [3] * n,
        'in_features': groups * per_group[0],
        'out_features': groups * per_group[1],
        'strides': rare(1, 2, 3),
        'dilation': rare(1, 2, 3),
        'holes': [1] * n,
        'groups': groups,
        'bias': r.random() < 0.4,
        'mode': 'zeros',
        'implementation': r.choice(KERNELS),
    }
    form = r.choice(('pairs', 'pairs', 'pairs', 'int', 'SAME', 'SAME_LOWER', 'VALID', 'CAUSAL'))
    if form == 'CAUSAL' and n > 1:
        form = 'SAME'
    spec['padding'] = form
    if form == 'int':
        spec['padding'] = r.randint(0, 2)
    if form == 'pairs':
        spec['padding'] = [[r.randint(-1, 3), r.randint(-1, 3)] for _ in range(n)]
        spec['holes'] = rare(1, 2, 3) if r.random() < 0.4 else spec['holes']
    elif r.random() < 0.3:
        spec['mode'] = r.choice(('reflect', 'replicate', 'circular'))
    if n < 3 and r.random() < 0.25:
        lengthen(r, spec)
        spec['batch'] = spec['batch'][:1]
        if form == 'pairs':
            spec['padding'] = [
                [r.randint(0, d - 1), r.randint(0, d - 1)] for d in oracle.spans(spec)
            ]
    spec['size'] = [max(s, d + 2) for s, d in zip(spec['size'], oracle.spans(spec), strict=True)]
    return spec


def lengthen(r: random.Random, spec: Spec) -> None:
    """Makes every axis longer than a vector kernel's blocks, with far dilation and many features.

    Kernels handle the rows in blocks of 16 positions or more, and their edges separately. Faults in
    either do not show on short rows. Mostly the native kernels are drawn, by name or by default.
    """
    n = len(spec['size'])
    spec['size'] = [r.randint(24, 48) for _ in range(n)]
    spec['dilation'] = [r.choice((1, 2, 3, r.randint(4, 10))) for _ in range(n)]
    for side in ('in_features', 'out_features'):
        spec[side] = spec['groups'] * r.choice((1, 2, r.randint(3, 40)))
    spec['implementation'] = r.choice((None, None, 'onednn', spec['implementation']))


def shapes(spec: Spec) -> list[tuple[int, ...]]:
    x = (*spec['batch'], *spec['size'], spec['in_features'])
    return [x, (*spec['window'], spec['in_features'] // spec['groups'], spec['out_features'])]


def pairs(spec: Spec) -> list[tuple[int, int]]:
    """Returns (lo, hi) per axis."""
    form, n = spec['padding'], len(spec['size'])
    if form == 'VALID' or isinstance(form, int):
        return [(0, 0) if form == 'VALID' else (form, form)] * n
    if form == 'CAUSAL':
        return [(oracle.spans(spec)[0] - 1, 0)]
    if isinstance(form, str):
        return [
            conv_oracle.same_padding(*axis, lower=form == 'SAME_LOWER')
            for axis in zip(spec['size'], oracle.spans(spec), spec['strides'], strict=True)
        ]
    return [(lo, hi) for lo, hi in form]


def output_shape(spec: Spec) -> tuple[int, ...]:
    geometry = oracle.Window(
        *map(tuple, (spec['size'], spec['window'], spec['strides'], pairs(spec))),
        tuple(spec['dilation']), tuple(spec['holes']),
    )  # fmt: skip
    return (*spec['batch'], *geometry.output_size, spec['out_features'])


def bias(spec: Spec, dtype: Any) -> np.ndarray | None:
    return (np.arange(spec['out_features']) % 5).astype(dtype) if spec['bias'] else None


def apply(spec: Spec, out: Any, x: Any, w: Any) -> Any:
    name, padding = spec['implementation'], spec['padding']
    return cnn_jax.conv(
        x, w, strides=spec['strides'], dilation=spec['dilation'], input_dilation=spec['holes'],
        padding=[tuple(p) for p in padding] if isinstance(padding, list) else padding,
        groups=spec['groups'], padding_mode=spec['mode'], preferred_element_type=out,
        bias=bias(spec, x.dtype),
        implementation=(name, 'lax') if name else None,
    )  # fmt: skip


def _arguments(spec):
    return {
        'strides': spec['strides'], 'padding': pairs(spec), 'dilation': spec['dilation'],
        'input_dilation': spec['holes'], 'groups': spec['groups'], 'mode': spec['mode'],
    }  # fmt: skip


def _flat(a, spec):
    return a.reshape(-1, *a.shape[len(spec['batch']) :])


def forward(spec: Spec, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    y = conv_oracle.conv(_flat(x, spec), w, **_arguments(spec)).reshape(output_shape(spec))
    y = y + bias(spec, y.dtype) if spec['bias'] else y
    return y.astype(x.dtype)


def pushforward(spec: Spec, operands, tangents) -> np.ndarray:
    (a, b), (da, db), linear = operands, tangents, {**spec, 'bias': False}
    return forward(linear, da, b) + forward(linear, a, db)


def pullback(spec: Spec, operands, dy: np.ndarray) -> list[np.ndarray]:
    x, w = operands
    _, dx, dw = conv_oracle.conv(_flat(x, spec), w, _flat(dy, spec), **_arguments(spec))
    return [dx.reshape(x.shape), dw]

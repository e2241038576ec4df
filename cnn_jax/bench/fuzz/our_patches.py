"""Random calls of `pad`, `unfold` and `fold` of `cnn_jax`, which are linear."""

import itertools
import math
import random
from typing import Any

import numpy as np

import cnn_jax

from . import conv_oracle, oracle

Spec = dict[str, Any]

OPERANDS = 1


def draw(r: random.Random) -> Spec:
    n = r.choice((1, 2, 2, 3))
    some = lambda low, high: [r.randint(low, high) for _ in range(n)]  # noqa: E731
    spec = {
        'kind': r.choice(('pad', 'unfold', 'fold')),
        'size': some(3, (0, 9, 6, 4)[n]),
        'features': r.randint(1, 3),
        'window': some(1, 3),
        'strides': some(1, 3),
        'dilation': some(1, 2) if r.random() < 0.5 else [1] * n,
        'padding': [[r.randint(0, 2), r.randint(0, 2)] for _ in range(n)],
        'mode': r.choice(('zeros', 'reflect', 'replicate', 'circular')),
        'value': 0,
    }
    if spec['kind'] != 'pad':
        spec['mode'] = 'zeros'
        spec['size'] = [
            max(s, oracle.holed(k, d))
            for s, k, d in zip(spec['size'], spec['window'], spec['dilation'], strict=True)
        ]
    elif spec['mode'] == 'zeros':
        spec['padding'] = [[r.randint(-1, 2), r.randint(-1, 2)] for _ in range(n)]
    return spec


def _geometry(spec):
    return oracle.Window(
        *map(tuple, (spec['size'], spec['window'], spec['strides'])),
        tuple(map(tuple, spec['padding'])), tuple(spec['dilation']), (1,) * len(spec['size']),
    )  # fmt: skip


def _unfolded(spec):
    features = math.prod(spec['window']) * spec['features']
    return (2, *_geometry(spec).output_size, features)


def shapes(spec: Spec) -> list[tuple[int, ...]]:
    return [_unfolded(spec) if spec['kind'] == 'fold' else (2, *spec['size'], spec['features'])]


def output_shape(spec: Spec) -> tuple[int, ...]:
    if spec['kind'] == 'pad':
        return (2, *_geometry(spec).padded_size, spec['features'])
    return _unfolded(spec) if spec['kind'] == 'unfold' else (2, *spec['size'], spec['features'])


def apply(spec: Spec, out: Any, x: Any) -> Any:
    padding = [tuple(p) for p in spec['padding']]
    if spec['kind'] == 'pad':
        return cnn_jax.ops.pad(x, padding, spec['mode'])
    options = {'strides': spec['strides'], 'padding': padding, 'dilation': spec['dilation']}
    if spec['kind'] == 'unfold':
        return cnn_jax.ops.unfold(x, spec['window'], **options)
    return cnn_jax.ops.fold(x, spec['size'], spec['window'], **options)


def _source(spec):
    """Returns, for each element of the padded or unfolded result, its index in x, or x.size."""
    shape = (2, *spec['size'], spec['features'])
    x = np.arange(math.prod(shape)).reshape(shape)
    n = len(spec['size'])
    _, padded = conv_oracle._pad(x, spec['padding'], (1,) * n, spec['mode'])
    if spec['kind'] == 'pad':
        return padded
    out, taps = _geometry(spec).output_size, []
    for tap in itertools.product(*map(range, spec['window'])):
        view = [
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(tap, spec['dilation'], out, spec['strides'], strict=True)
        ]
        taps.append(padded[(slice(None), *view)])
    return np.concatenate(taps, -1)


def _gather(spec, x):
    return np.append(x.reshape(-1), 0)[_source(spec)].astype(x.dtype)


def _scatter(spec, y):
    x = np.zeros(2 * math.prod(spec['size']) * spec['features'] + 1, y.dtype)
    np.add.at(x, _source(spec).reshape(-1), y.reshape(-1))
    return x[:-1].reshape(2, *spec['size'], spec['features'])


def forward(spec: Spec, x: np.ndarray) -> np.ndarray:
    return _scatter(spec, x) if spec['kind'] == 'fold' else _gather(spec, x)


def pushforward(spec: Spec, operands, tangents) -> np.ndarray:
    return forward(spec, tangents[0])


def pullback(spec: Spec, operands, dy: np.ndarray) -> list[np.ndarray]:
    return [_gather(spec, dy) if spec['kind'] == 'fold' else _scatter(spec, dy)]

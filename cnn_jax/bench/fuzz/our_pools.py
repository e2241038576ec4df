"""Random calls of the pools of `cnn_jax`: maxima, averages and norms, adaptive ones too."""

import math
import random
from typing import Any

import numpy as np

import cnn_jax
from cnn_jax.ops.pool_kernels import KERNELS as registry

from . import conv_oracle, oracle, pool_oracle

Spec = dict[str, Any]

OPERANDS = 1
KERNELS = (None, *registry)


def draw(r: random.Random) -> Spec:
    n = r.choice((1, 2, 2, 2, 3))
    some = lambda low, high: [r.randint(low, high) for _ in range(n)]  # noqa: E731
    kind = r.choice(('max', 'max', 'indices', 'avg', 'avg', 'adaptive_max', 'adaptive_avg'))
    spec = {
        'kind': kind,
        'batch': r.choice(([], [1], [2], [2, 2])),
        'size': some(1, (0, 12, 7, 5)[n]),
        'features': r.randint(1, 3),
        'window': some(1, 4),
        'strides': r.choice((None, some(1, 4))),
        'dilation': [r.choice((1, 1, 2, 3)) for _ in range(n)] if r.random() < 0.4 else [1] * n,
        'ceil_mode': r.random() < 0.4,
        'count_include_pad': r.random() < 0.5,
        'divisor': r.choice((None, None, None, 5)),
        'implementation': r.choice(KERNELS),
    }
    if kind.startswith('adaptive'):
        spec['output'] = [r.randint(1, s) for s in spec['size']]
        return spec
    spans = oracle.spans(spec)
    spec['size'] = [max(a, b) for a, b in zip(spec['size'], spans, strict=True)]
    form = r.choice(('int', 'pairs', 'SAME', 'VALID'))
    # at most half of the window, as in PyTorch
    spec['padding'] = form
    if form == 'int':
        spec['padding'] = [r.randint(0, d // 2) for d in spans]
    if form == 'pairs':
        spec['padding'] = [[r.randint(0, d // 2), r.randint(0, d // 2)] for d in spans]
    return spec


def shapes(spec: Spec) -> list[tuple[int, ...]]:
    return [(*spec['batch'], *spec['size'], spec['features'])]


def _strides(spec):
    return spec['strides'] or spec['window']


def pairs(spec: Spec) -> list[tuple[int, int]]:
    spans = oracle.spans(spec)
    if spec['padding'] == 'SAME':
        axes = zip(spec['size'], spans, _strides(spec), strict=True)
        return [conv_oracle.same_padding(*axis) for axis in axes]
    if spec['padding'] == 'VALID':
        return [(0, 0)] * len(spans)
    return [(p, p) if isinstance(p, int) else tuple(p) for p in spec['padding']]


def axes(spec: Spec) -> list[list[list[int]]]:
    """Returns the windows along each axis, as lists of positions."""
    if 'output' in spec:
        return [
            pool_oracle.adaptive_windows(n, m)
            for n, m in zip(spec['size'], spec['output'], strict=True)
        ]
    along = zip(
        spec['size'], spec['window'], _strides(spec), pairs(spec), spec['dilation'], strict=True
    )
    return [pool_oracle.axis_windows(*axis, spec['ceil_mode']) for axis in along]


def output_shape(spec: Spec) -> tuple[int, ...]:
    return (*spec['batch'], *map(len, axes(spec)), spec['features'])


def apply(spec: Spec, out: Any, x: Any) -> Any:
    kind = spec['kind']
    if kind == 'adaptive_max':
        return cnn_jax.ops.adaptive_max_pool(x, spec['output'])
    if kind == 'adaptive_avg':
        return cnn_jax.ops.adaptive_avg_pool(x, spec['output'])
    name, padding = spec['implementation'], spec['padding']
    options = {
        'strides': spec['strides'], 'dilation': spec['dilation'], 'ceil_mode': spec['ceil_mode'],
        'padding': padding if isinstance(padding, str)
        else [p if isinstance(p, int) else tuple(p) for p in padding],
        'implementation': (name, 'reduce_window') if name else None,
    }  # fmt: skip
    if kind == 'avg':
        return cnn_jax.avg_pool(
            x, spec['window'], **options, count_include_pad=spec['count_include_pad'],
            divisor_override=spec['divisor'],
        )  # fmt: skip
    if kind == 'max':
        return cnn_jax.max_pool(x, spec['window'], **options)
    y, at = cnn_jax.max_pool(x, spec['window'], **options, return_indices=True)
    return y + at.astype(y.dtype)  # both in one result; the indices have no derivative


def _divisors(spec):
    if 'output' in spec:
        counts = [[float(len(w)) for w in axis] for axis in axes(spec)]
        return np.array([math.prod(c) for c in _product(counts)])[:, None]
    found = pool_oracle.divisors(
        spec['size'], axes(spec), pairs(spec), spec['count_include_pad'], spec['divisor']
    )
    return np.maximum(found, 1) if found.ndim else found


def _product(lists):
    import itertools

    return itertools.product(*lists)


def forward(spec: Spec, x: np.ndarray) -> np.ndarray:
    if 'avg' in spec['kind']:
        y = pool_oracle.sum_pool(x, axes(spec)) / _divisors(spec)
    else:
        y, at = pool_oracle.max_pool(x, axes(spec))
        y = y + at if spec['kind'] == 'indices' else y
    return y.reshape(output_shape(spec))


def pushforward(spec: Spec, operands, tangents) -> np.ndarray:
    (x,), (dx,) = operands, tangents
    if 'avg' in spec['kind']:
        return forward(spec, dx)
    _, at = pool_oracle.max_pool(x, axes(spec))
    return pool_oracle.take(dx, at, len(spec['size'])).reshape(output_shape(spec))


def pullback(spec: Spec, operands, dy: np.ndarray) -> list[np.ndarray]:
    (x,) = operands
    if 'avg' in spec['kind']:
        flat = pool_oracle.flatten(dy, len(spec['size'])) / _divisors(spec)
        return [pool_oracle.sum_pool_gradient(flat, axes(spec), x.shape)]
    _, at = pool_oracle.max_pool(x, axes(spec))
    return [pool_oracle.put(dy, at, x.shape, len(spec['size']))]

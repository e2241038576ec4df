"""Random convolutions of every kind that `lax.conv_general_dilated` computes."""

import random
from typing import Any

import numpy as np
from jax import lax

from . import oracle

Spec = dict[str, Any]

OPERANDS = 2


def draw(r: random.Random) -> Spec:
    n = r.choice((0, 1, 1, 1, 2, 2, 2, 2, 2, 3))
    most = (1, 9, 6, 4)[n]
    some = lambda low, high: [r.randint(low, high) for _ in range(n)]  # noqa: E731
    rare = lambda: [r.choice((1, 1, 1, 2, 3)) for _ in range(n)]  # noqa: E731
    many = r.random() < 0.15  # features that fill vector registers
    groups, batch_groups = r.choice((1, 1, 1, 1, 2, 3, 4)), 1
    if groups == 1 and r.random() < 0.15:
        batch_groups = r.choice((2, 3))
    features = lambda: r.choice((1, 1, 2, 3) if not many else (4, 8, 16, 17))  # noqa: E731
    spec = {
        'batch': batch_groups * r.randint(1, 3),
        'size': some(1, most),
        'window': some(1, 3) if r.random() < 0.8 else some(1, 5 - n),
        'in_features': groups * features(),
        'out_features': groups * batch_groups * features(),
        'strides': rare(),
        'padding': [[r.randint(-1, 2), r.randint(-1, 2)] for _ in range(n)],
        'dilation': rare(),
        'holes': rare() if r.random() < 0.4 else [1] * n,
        'groups': groups,
        'batch_groups': batch_groups,
        'layout': [_layout(r, n, kind) for kind in ('x', 'w', 'x')],
        'precision': r.choice((None, None, 'highest')),
    }
    for axis, (lo, hi) in enumerate(spec['padding']):  # at least one output
        length = oracle.holed(spec['size'][axis], spec['holes'][axis])
        crop = max(0, max(-lo, 0) + max(-hi, 0) + 1 - length)
        lo, hi = (0, 0) if crop else (lo, hi)
        window = oracle.holed(spec['window'][axis], spec['dilation'][axis])
        spec['padding'][axis] = [lo, hi + max(0, window - length - lo - hi)]
    return spec


def _layout(r: random.Random, n: int, kind: str) -> list[int]:
    """Returns the position of each canonical axis (N, *space, C) or (*space, I, O)."""
    space = list(range(n))
    chance = r.random()
    if chance < 0.4:
        return list(range(n + 2))
    if chance < 0.8:  # batch or output, features, space
        return [0, *(s + 2 for s in space), 1] if kind == 'x' else [*(s + 2 for s in space), 1, 0]
    return r.sample(range(n + 2), n + 2)


def geometry(spec: Spec) -> oracle.Window:
    keys = ('size', 'window', 'strides', 'padding', 'dilation', 'holes')
    return oracle.Window(*(tuple(map(tuple, spec[k])) if k == 'padding' else tuple(spec[k])
                           for k in keys))  # fmt: skip


def shapes(spec: Spec) -> list[tuple[int, ...]]:
    """Returns the shapes of the operands, each in its layout."""
    x = (spec['batch'], *spec['size'], spec['in_features'])
    w = (*spec['window'], spec['in_features'] // spec['groups'], spec['out_features'])
    return [_arranged(s, spec['layout'][i]) for i, s in enumerate((x, w))]


def output_shape(spec: Spec) -> tuple[int, ...]:
    y = (spec['batch'] // spec['batch_groups'], *geometry(spec).output_size, spec['out_features'])
    return _arranged(y, spec['layout'][2])


def _arranged(shape, layout):
    return tuple(shape[layout.index(i)] for i in range(len(shape)))


def arguments(spec: Spec) -> dict[str, Any]:
    """Returns the arguments of `lax.conv_general_dilated`."""
    n = len(spec['size'])
    (batch, *space, features), (*window, into, outof), (to, *places, outputs) = spec['layout']
    numbers = lax.ConvDimensionNumbers(
        (batch, features, *space), (outof, into, *window), (to, outputs, *places)
    )
    return {
        'window_strides': spec['strides'], 'padding': [tuple(p) for p in spec['padding']],
        'lhs_dilation': spec['holes'] if n else None,
        'rhs_dilation': spec['dilation'] if n else None,
        'dimension_numbers': numbers, 'feature_group_count': spec['groups'],
        'batch_group_count': spec['batch_groups'], 'precision': spec['precision'],
    }  # fmt: skip


def apply(spec: Spec, out: Any, x: Any, w: Any) -> Any:
    return lax.conv_general_dilated(x, w, **arguments(spec), preferred_element_type=out)


def forward(spec: Spec, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    x, w = _canonical(spec, x, w)
    y = oracle.conv(_merge(spec, x), w, geometry(spec), _groups(spec))
    return y.transpose(np.argsort(spec['layout'][2]))


def pullback(spec: Spec, operands, dy: np.ndarray) -> list[np.ndarray]:
    x, w = _canonical(spec, *operands)
    dy, merged = dy.transpose(spec['layout'][2]), _merge(spec, x)
    dx = oracle.conv_input_grad(dy, w, merged.shape, geometry(spec), _groups(spec))
    dw = oracle.conv_filter_grad(merged, dy, w.shape, geometry(spec), _groups(spec))
    grads = _split(spec, dx), dw
    return [g.transpose(np.argsort(p)) for g, p in zip(grads, spec['layout'], strict=False)]


def _canonical(spec, x, w):
    return x.transpose(spec['layout'][0]), w.transpose(spec['layout'][1])


def _groups(spec):
    return spec['groups'] * spec['batch_groups']


def _merge(spec, x):
    """Batch groups are groups of features: (B n, ..., C) -> (n, ..., B C)."""
    if spec['batch_groups'] == 1:
        return x
    x = np.moveaxis(x.reshape(spec['batch_groups'], -1, *x.shape[1:]), 0, -2)
    return x.reshape(*x.shape[:-2], -1)


def _split(spec, x):
    """Inverts `_merge`."""
    if spec['batch_groups'] == 1:
        return x
    x = np.moveaxis(x.reshape(*x.shape[:-1], spec['batch_groups'], -1), -2, 0)
    return x.reshape(-1, *x.shape[2:])


def pushforward(spec: Spec, operands, tangents) -> np.ndarray:
    (a, b), (da, db) = operands, tangents
    return forward(spec, da, b) + forward(spec, a, db)

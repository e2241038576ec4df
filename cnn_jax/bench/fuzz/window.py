"""Random pools of every kind that `lax.reduce_window` computes."""

import random
from typing import Any

import numpy as np
from jax import lax

from . import oracle

Spec = dict[str, Any]

OPERANDS = 1
REDUCERS = ('sum', 'max', 'min')
INT64 = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def draw(r: random.Random) -> Spec:
    n = r.choice((1, 2, 2, 3, 3, 4, 4))
    most = (0, 12, 7, 5, 4)[n]
    sizes = [r.randint(1, most) for _ in range(n)]
    rare = lambda: [r.choice((1, 1, 1, 2, 3)) for _ in range(n)]  # noqa: E731
    plain = r.random() < 0.5
    spec = {
        'size': sizes,
        'window': [r.choice((1, 1, 2, 3)) for _ in range(n)],
        'strides': rare(),
        'padding': [[r.choice((0, 0, 1, 2)), r.choice((0, 0, 1, 2))] for _ in range(n)],
        'dilation': [1] * n if plain else rare(),
        'holes': [1] * n if plain else rare(),
        'reducer': r.choice(REDUCERS),
    }
    for axis in range(n):
        length = oracle.holed(sizes[axis], spec['holes'][axis])
        window = oracle.holed(spec['window'][axis], spec['dilation'][axis])
        spec['padding'][axis][1] += max(0, window - length - sum(spec['padding'][axis]))
    return spec


def geometry(spec: Spec) -> oracle.Window:
    keys = ('size', 'window', 'strides', 'padding', 'dilation', 'holes')
    return oracle.Window(*(tuple(map(tuple, spec[k])) if k == 'padding' else tuple(spec[k])
                           for k in keys))  # fmt: skip


def shapes(spec: Spec) -> list[tuple[int, ...]]:
    return [tuple(spec['size'])]


def output_shape(spec: Spec) -> tuple[int, ...]:
    return geometry(spec).output_size


def initial(reducer: str, dtype: np.dtype, low: Any, high: Any) -> np.ndarray:
    """Returns the neutral element; `low` and `high` are the least and greatest of the dtype."""
    return np.array({'sum': 0, 'max': low, 'min': high}[reducer], dtype)


def apply(spec: Spec, out: Any, x: Any) -> Any:
    del out  # the result has the dtype of x
    low, high = limits(x.dtype)
    combine = {'sum': lax.add, 'max': lax.max, 'min': lax.min}[spec['reducer']]
    return lax.reduce_window(
        x, initial(spec['reducer'], x.dtype, low, high), combine,
        window_dimensions=spec['window'], window_strides=spec['strides'],
        padding=[tuple(p) for p in spec['padding']], base_dilation=spec['holes'],
        window_dilation=spec['dilation'],
    )  # fmt: skip


def limits(dtype: Any) -> tuple[Any, Any]:
    from jax import dtypes

    if dtypes.issubdtype(dtype, np.integer):
        info = dtypes.iinfo(dtype)
        return info.min, info.max
    if dtypes.issubdtype(dtype, np.complexfloating):
        return 0, 0  # only sums
    info = dtypes.finfo(dtype)
    has_infinity = np.isinf(np.array(np.inf, dtype).astype(np.float64))
    return (-np.inf, np.inf) if has_infinity else (info.min, info.max)


def _initial(spec, x):
    if spec['reducer'] == 'sum':
        return x.dtype.type(0)
    lowest, highest = (-np.inf, np.inf) if x.dtype.kind == 'f' else INT64  # the caller clips
    return {'max': lowest, 'min': highest}[spec['reducer']]


def forward(spec: Spec, x: np.ndarray) -> np.ndarray:
    return oracle.reduce_window(x, geometry(spec), spec['reducer'], _initial(spec, x))


def pullback(spec: Spec, operands, dy: np.ndarray) -> list[np.ndarray]:
    (x,) = operands
    g = oracle.reduce_window_grad(dy, x, geometry(spec), spec['reducer'], _initial(spec, x))
    return [g]


def pushforward(spec: Spec, operands, tangents) -> np.ndarray:
    """Returns the tangent of the result."""
    (x,), (dx,) = operands, tangents
    if spec['reducer'] == 'sum':
        return forward(spec, dx)
    return oracle.reduce_window_tangent(dx, x, geometry(spec), spec['reducer'], _initial(spec, x))

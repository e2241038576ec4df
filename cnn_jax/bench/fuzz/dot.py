"""Random products of every kind that `lax.dot_general` computes."""

import random
from typing import Any

import numpy as np
from jax import lax

Spec = dict[str, Any]

OPERANDS = 2


def draw(r: random.Random) -> Spec:
    few = (0, 1, 1, 1, 2)
    counts = [r.choice((0, 0, 1, 1, 2)), r.choice(few), r.choice(few), r.choice((0, 1, 1, 1, 2))]
    longest = r.choice((3, 6, 6, 9, 17, 33)) if sum(counts) < 5 else 4
    batch, free, other, summed = (
        [r.randint(1, longest if k != 0 else 4) for _ in range(c)] for k, c in enumerate(counts)
    )
    lhs = len(batch) + len(free) + len(summed)
    rhs = len(batch) + len(other) + len(summed)
    return {
        'batch': batch,
        'free': free,
        'other': other,
        'summed': summed,
        # position of each of (batch, free, summed) in the operand
        'layout': [_layout(r, lhs), _layout(r, rhs)],
        'precision': r.choice((None, None, 'highest')),
    }


def _layout(r, rank):
    return list(range(rank)) if r.random() < 0.3 else r.sample(range(rank), rank)


def shapes(spec: Spec) -> list[tuple[int, ...]]:
    lhs, rhs = ((*spec['batch'], *spec[k], *spec['summed']) for k in ('free', 'other'))
    return [
        tuple(s[p.index(i)] for i in range(len(s)))
        for s, p in zip((lhs, rhs), spec['layout'], strict=True)
    ]


def output_shape(spec: Spec) -> tuple[int, ...]:
    return (*spec['batch'], *spec['free'], *spec['other'])


def numbers(spec: Spec) -> Any:
    """Returns the dimension numbers of `lax.dot_general`."""
    b, c = len(spec['batch']), len(spec['summed'])
    lhs, rhs = spec['layout']
    contracting = lhs[len(lhs) - c :], rhs[len(rhs) - c :]
    return contracting, (lhs[:b], rhs[:b])


def order(spec: Spec) -> list[int]:
    """Returns a transposition: `dot_general` orders the free axes as the operands do."""
    count, free = len(spec['batch']), len(spec['free'])
    places = [
        _ranks(layout[count : count + len(spec[key])])
        for layout, key in zip(spec['layout'], ('free', 'other'), strict=True)
    ]
    own = [count + i for i in places[0]]
    return [*range(count), *own, *(count + free + i for i in places[1])]


def _ranks(positions):
    return [sorted(positions).index(p) for p in positions]


def apply(spec: Spec, out: Any, a: Any, b: Any) -> Any:
    y = lax.dot_general(
        a, b, numbers(spec), precision=spec['precision'], preferred_element_type=out
    )
    return y if order(spec) == sorted(order(spec)) else lax.transpose(y, order(spec))


def _letters(spec):
    names = iter('abcdefghijklmnop')
    take = lambda key: ''.join(next(names) for _ in spec[key])  # noqa: E731
    batch, free, other, summed = map(take, ('batch', 'free', 'other', 'summed'))
    return batch + free + summed, batch + other + summed, batch + free + other


def forward(spec: Spec, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lhs, rhs, out = _letters(spec)
    a, b = a.transpose(spec['layout'][0]), b.transpose(spec['layout'][1])
    return np.einsum(f'{lhs},{rhs}->{out}', a, b)


def pullback(spec: Spec, operands, dy: np.ndarray) -> list[np.ndarray]:
    lhs, rhs, out = _letters(spec)
    a, b = (o.transpose(p) for o, p in zip(operands, spec['layout'], strict=True))
    da, db = np.einsum(f'{out},{rhs}->{lhs}', dy, b), np.einsum(f'{out},{lhs}->{rhs}', dy, a)
    return [g.transpose(np.argsort(p)) for g, p in zip((da, db), spec['layout'], strict=True)]


def pushforward(spec: Spec, operands, tangents) -> np.ndarray:
    (a, b), (da, db) = operands, tangents
    return forward(spec, da, b) + forward(spec, a, db)

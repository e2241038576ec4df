"""Operands as programs make them: not parameters or constants as such, but transposes, slices, ...

A view is [name, arguments]. An operand is stored as some array, and a few views make it from that.
`draw` works backwards from the operand's shape; `of_jax` and `of_numpy` compute the operand.
"""

import random
from typing import Any

import numpy as np
from jax import lax

View = list[Any]
Shape = tuple[int, ...]

NAMES = ('transpose', 'reverse', 'slice', 'pad', 'broadcast', 'reshape', 'negate', 'double')


class Unfit(ValueError):
    """No array has the view that is asked for."""


def draw(r: random.Random, shape: Shape) -> list[View]:
    """Returns views that make an array of `shape` of some other one."""
    made: list[View] = []
    for _ in range(r.choice((0, 0, 0, 0, 1, 2))):
        name = r.choice(NAMES)
        if not shape:
            break
        axis = r.randrange(len(shape))
        rank = len(shape)
        if name == 'transpose':
            given = r.sample(range(rank), rank)
        elif name == 'reverse':
            given = sorted(r.sample(range(rank), r.randint(1, rank)))
        elif name == 'slice':
            given = [axis, r.randint(0, 2), r.randint(0, 2), r.choice((1, 2))]
        elif name == 'pad':
            given = [axis, r.randint(0, 1), r.randint(0, 1)]
        else:
            more = {'broadcast': [axis, None], 'reshape': [axis, r.choice((2, 3))]}
            given = more.get(name, [])
        try:
            shape, (view,) = before(shape, [[name, given]])
        except Unfit:
            continue
        made.insert(0, view)
    return made


def before(shape: Shape, views: list[View]) -> tuple[Shape, list[View]]:
    """Returns the shape of the array whose views have `shape`, and the views, adapted to it."""
    made = []
    for name, given in reversed(views):
        axis = given[0] if given else 0
        if name in ('slice', 'pad', 'broadcast', 'reshape') and axis >= len(shape):
            raise Unfit
        head, n, tail = shape[:axis], shape[axis] if shape else 1, shape[axis + 1 :]
        if name == 'transpose':
            if sorted(given) != list(range(len(shape))):
                raise Unfit
            shape = tuple(shape[given.index(i)] for i in range(len(shape)))
        elif name == 'reverse' and max(given) >= len(shape):
            raise Unfit
        elif name == 'slice':
            shape = (*head, given[1] + (n - 1) * given[3] + 1 + given[2], *tail)
        elif name == 'pad':
            if n <= given[1] + given[2]:
                raise Unfit
            shape = (*head, n - given[1] - given[2], *tail)
        elif name == 'broadcast':
            shape, given = (*head, 1, *tail), [axis, n]
        elif name == 'reshape':
            if n % given[1]:
                raise Unfit
            shape = (*head, given[1], n // given[1], *tail)
        made.insert(0, [name, given])
    return shape, made


def of_jax(x: Any, views: list[View]) -> Any:
    for name, given in views:
        if name == 'transpose':
            x = lax.transpose(x, given)
        elif name == 'reverse':
            x = lax.rev(x, given)
        elif name == 'slice':
            axis, lo, after, step = given
            x = lax.slice_in_dim(x, lo, x.shape[axis] - after, step, axis)
        elif name == 'pad':
            axis, lo, hi = given
            widths = [(lo, hi, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
            x = lax.pad(x, np.zeros((), x.dtype), widths)
        elif name == 'broadcast':
            x = lax.broadcast_in_dim(x, _broadcast(x, *given), range(x.ndim))
        elif name == 'reshape':
            x = lax.reshape(x, _merged(x, given[0]))
        elif name == 'negate':
            x = lax.neg(x)
        elif name == 'double':
            x = lax.add(x, x)
    return x


def of_numpy(x: np.ndarray, views: list[View]) -> np.ndarray:
    for name, given in views:
        if name == 'transpose':
            x = x.transpose(given)
        elif name == 'reverse':
            x = np.flip(x, given)
        elif name == 'slice':
            axis, lo, after, step = given
            x = x[(slice(None),) * axis + (slice(lo, x.shape[axis] - after, step),)]
        elif name == 'pad':
            axis, lo, hi = given
            x = np.pad(x, [(lo, hi) if i == axis else (0, 0) for i in range(x.ndim)])
        elif name == 'broadcast':
            x = np.broadcast_to(x, _broadcast(x, *given))
        elif name == 'reshape':
            x = x.reshape(_merged(x, given[0]))
        elif name == 'negate':
            x = -x
        elif name == 'double':
            x = x + x
    return x


def _broadcast(x, axis, n):
    return (*x.shape[:axis], n, *x.shape[axis + 1 :])


def _merged(x, axis):
    return (*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])

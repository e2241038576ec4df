"""Computes max and average pooling in float64 NumPy, and lists the kernels to compare with it."""

import itertools
from collections.abc import Iterator

import jax
import numpy as np

from cnn_jax.bench.kernels.problem import Problem
from cnn_jax.errors import UserError
from cnn_jax.ops import pool


def forward(x, dy, problem: Problem) -> np.ndarray:
    """Returns y (batch, *output size, channels) for x (batch, *input size, channels).

    `dy` is not used.
    """
    del dy
    views = np.stack([_pad(x, problem)[view] for view in _views(problem)])
    return views.max(0) if problem.op == 'max_pool' else views.mean(0)


def input_grad(x, dy, problem: Problem) -> np.ndarray:
    """Returns dx for dy.

    Max pooling sends dy to the first maximum of each window. Average pooling spreads it evenly over
    the window.
    """
    padded = _pad(x, problem)
    views = list(_views(problem))
    first = np.argmax(np.stack([padded[view] for view in views]), axis=0)
    dx = np.zeros_like(padded)
    for tap, view in enumerate(views):
        dx[view] += np.where(first == tap, dy, 0) if problem.op == 'max_pool' else dy / len(views)
    return dx[_inside(problem)]


MAPS = {'forward': forward, 'input_grad': input_grad}


def call(problem: Problem, implementation: str | None):
    """Returns the pool of `problem` as a function of x."""
    operation = getattr(pool, problem.op)
    return lambda x: operation(
        x,
        problem.window,
        problem.strides,
        padding=problem.padding,
        implementation=implementation,
    )


def reason_against(problem: Problem, implementation: str, x) -> str:
    """Returns why a kernel cannot compute the problem; '' if it can."""
    try:
        jax.eval_shape(call(problem, implementation), x)
    except UserError as error:
        return ' '.join(str(error).split())
    return ''


def gradient(function):
    """Returns the input gradient of `function` as a function of (x, dy)."""
    return lambda x, dy: jax.vjp(function, x)[1](dy)[0]


def functions(problem: Problem, direction: str, names, x) -> Iterator[tuple]:
    """Yields (kernel, reason against it, function of (x, dy)) for each kernel name."""
    for name in names:
        pool = call(problem, name)
        function = gradient(pool) if direction == 'input_grad' else lambda x, dy, pool=pool: pool(x)
        yield name, reason_against(problem, name, x), function


def _inside(problem):
    return (
        slice(None),
        *(
            slice(lo, lo + n)
            for n, (lo, _) in zip(problem.input_size, problem.padding, strict=True)
        ),
    )


def _pad(x, problem):
    filler = -np.inf if problem.op == 'max_pool' else 0.0
    pairs = [(0, 0), *problem.padding, (0, 0)]
    return np.pad(np.asarray(x).astype(np.float64), pairs, constant_values=filler)


def _views(problem) -> Iterator[tuple]:
    for tap in itertools.product(*map(range, problem.window)):
        yield (
            slice(None),
            *(
                slice(t * d, t * d + (o - 1) * s + 1, s)
                for t, d, o, s in zip(
                    tap, problem.dilation, problem.output_size, problem.strides, strict=True
                )
            ),
        )

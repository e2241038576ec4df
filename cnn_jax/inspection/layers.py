"""The convolution problems in a model, and how often a training step runs each pass."""

import collections
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax.bench.kernels.compare import MAPS
from cnn_jax.bench.kernels.problem import Problem, from_spec
from cnn_jax.ops.explanation import Used, explain


def forward_convolutions(
    model: nnx.Module, input_shape: Sequence[int], batch_size: int = 1
) -> list[Used]:
    """Returns the convolutions of a model's forward pass in order; see `cnn_jax.explain`.

    Args:
        model: a model that takes one array; may be abstract (`nnx.eval_shape`).
        input_shape: shape of one example, without the batch axis.
        batch_size: number of examples per call.
    """
    run, state, x = _function(model, input_shape, batch_size)
    return explain(run, *state, x)


def problems(
    model: nnx.Module, input_shape: Sequence[int], batch_size: int
) -> tuple[list[Problem], dict[tuple[Problem, str], int]]:
    """Returns the convolutions of a model, in order of execution, and how often a step runs each.

    Takes the arguments of `forward_convolutions`.

    Returns:
        (problems, counts): the problems in order (a shape that occurs twice is listed twice), and
        a mapping from (problem, direction) to the number of times that the forward and backward
        pass of one training step run it. A step does not run the input gradient of a layer if no
        layer before it is trained.
    """
    run, (params, rest), x = _function(model, input_shape, batch_size)
    order = [
        from_spec(used.spec, 'conv' if used.op == 'forward' else 'conv_transpose')
        for used in explain(run, params, rest, x)
    ]
    transposed = {p.spec(): p for p in order if p.op == 'conv_transpose'}
    counts: dict[tuple[Problem, str], int] = collections.Counter()
    gradient = jax.grad(lambda params, rest, x: jnp.sum(run(params, rest, x)))
    for used in explain(gradient, params, rest, x):
        conv = from_spec(used.spec)
        problem = transposed.get(conv.spec(), conv)
        direction = next(d for d, name in MAPS[problem.op].items() if name == used.op)
        counts[problem, direction] += 1
    return order, dict(counts)


def _function(model, input_shape, batch_size):
    """Returns the model as a pure function, its two kinds of state, and the shape of its input."""
    dtype = jnp.int32 if getattr(model, 'kind', None) == 'text' else jnp.float32
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def run(params, rest, x):
        return nnx.merge(graph, params, rest, copy=True)(x)

    return run, (params, rest), jax.ShapeDtypeStruct((batch_size, *input_shape), dtype)

"""Converts an inference function to ONNX.

The jaxpr of the function is written equation by equation (`rules`, `windows`). What depends on the
weights alone is computed here. jax2onnx, the converter that others maintain, cannot be installed
beside the Orbax that the extra `train` needs (it excludes 0.11.37 and later).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax.extend import core

from cnn_jax.errors import UserError
from cnn_jax.export.inference import Inference
from cnn_jax.export.onnx import rules, windows
from cnn_jax.export.onnx.graph import Graph, Tensor, UnsupportedError, plain_tensor
from cnn_jax.export.stablehlo import symbolic_shape

OLDEST_OPSET = 19  # the first with dilated average pools
MOST_BYTES = 2**31 - 1  # of a file in the format of Protocol Buffers

RULES = rules.RULES | windows.RULES

_SYMBOLIC = ('broadcast_in_dim', 'dim_as_value')  # may be of symbolic size, from constants

# Primitives that call another jaxpr -> the parameter that holds it.
_CALLS = {
    'jit': 'jaxpr',
    'pjit': 'jaxpr',
    'closed_call': 'call_jaxpr',
    'custom_jvp_call': 'call_jaxpr',
    'custom_vjp_call': 'call_jaxpr',
    'checkpoint': 'jaxpr',
}


def to_onnx(infer: Inference, opset: int) -> onnx.ModelProto:
    """Returns the function as an ONNX model; see `export_model`."""
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise UserError(f'opset={opset}: must be from {OLDEST_OPSET} to {newest}')
    size = sum(value.nbytes for value in infer.weights.values())
    if size > MOST_BYTES:
        raise UserError(f'the weights have {size} bytes; an ONNX file holds {MOST_BYTES}')
    example = symbolic_shape(infer)
    jaxpr = jax.make_jaxpr(infer.apply)(infer.weights, example)
    name_in, name_out = (infer.about[side]['name'] for side in ('input', 'output'))
    graph, weights = Graph(opset), jax.tree.leaves(infer.weights)
    (result,) = _write(graph, jaxpr, [*weights, plain_tensor(name_in, example.shape)])
    output = jax.eval_shape(infer, example)
    result = graph.plain(graph.full(result, output.shape))
    model = graph.model({name_in: example}, {name_out: (result, output)})
    onnx.checker.check_model(model, full_check=True)
    return model


def _write(graph: Graph, jaxpr: core.ClosedJaxpr, inputs: Sequence[Any]) -> list[Any]:
    """Writes the equations of `jaxpr`; returns the values of its results."""
    values = dict(zip(jaxpr.jaxpr.constvars, map(_constant, jaxpr.consts), strict=True))
    values |= zip(jaxpr.jaxpr.invars, map(_constant, inputs), strict=True)

    def read(var: Any) -> Any:
        if not isinstance(var, core.Literal):
            return values[var]
        aval: Any = var.aval
        return np.asarray(var.val, aval.dtype)

    for eqn in jaxpr.jaxpr.eqns:
        results = _equation(graph, eqn, [read(var) for var in eqn.invars])
        values |= zip(eqn.outvars, results, strict=True)
    return [read(var) for var in jaxpr.jaxpr.outvars]


def _equation(graph: Graph, eqn: core.JaxprEqn, inputs: list[Any]) -> list[Any]:
    name = eqn.primitive.name
    if name in _CALLS:
        return _write(graph, eqn.params[_CALLS[name]], inputs)
    avals: list[Any] = [var.aval for var in eqn.invars]
    try:
        if name not in _SYMBOLIC and not any(isinstance(v, Tensor) for v in inputs):
            return _computed(eqn, inputs, [aval.shape for aval in avals])
        if name not in RULES:
            raise UnsupportedError('there is no rule for it')
        results = RULES[name](graph, eqn, *inputs)
    except UnsupportedError as error:
        shapes = ', '.join(aval.str_short() for aval in avals)
        raise UnsupportedError(
            f'the equation {name} of {shapes} cannot be written in ONNX: {error}'
        ) from None
    return results if isinstance(results, list) else [results]


def _computed(eqn: core.JaxprEqn, inputs: list[Any], shapes: list[tuple[Any, ...]]) -> list[Any]:
    """Returns the results of an equation of constants, which may still have to be broadcast."""
    avals: list[Any] = [var.aval for var in eqn.outvars]
    if all(isinstance(n, int) for shape in shapes for n in shape):
        inputs = [jnp.broadcast_to(v, shape) for v, shape in zip(inputs, shapes, strict=True)]
    elif any(v.size > 1 for v in inputs):
        raise UnsupportedError('it is a constant of symbolic size')
    if not inputs and not all(isinstance(n, int) for aval in avals for n in aval.shape):
        raise UnsupportedError('it is a constant of symbolic size')
    results = eqn.primitive.bind(*map(jnp.asarray, inputs), **eqn.params)
    return [*map(_constant, results if eqn.primitive.multiple_results else [results])]


def _constant(value: Any) -> Any:
    """Returns an array as NumPy's, except for keys of random numbers, and anything else as is."""
    is_key = isinstance(value, jax.Array) and jax.dtypes.issubdtype(
        value.dtype, jax.dtypes.prng_key
    )
    return value if isinstance(value, Tensor) or is_key else np.asarray(value)

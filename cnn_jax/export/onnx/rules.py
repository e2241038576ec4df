"""How the equations of a network are written in ONNX: one function per kind of equation.

A rule takes the graph, the equation and the values of its inputs, and returns the value of its
result, or several in a list. The inputs may be smaller than the equation says; see `graph`.
Operators: https://onnx.ai/onnx/operators/.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnn_jax.export.onnx.graph import (
    Graph,
    Tensor,
    UnsupportedError,
    Value,
    is_one,
    onnx_dtype,
    plain_tensor,
)

Rule = Callable[..., Value | list[Value]]
Pairs = Sequence[tuple[int, int]]

RULES: dict[str, Rule] = {}  # name of a primitive -> its rule


def rule(*primitives: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(primitives, function))
        return function

    return add


def _elementwise(graph: Graph, compute: Callable[..., str], *values: Value) -> Tensor:
    """Returns the result of `compute`, a function of names, in the layout of the largest input."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    layout = min(tensors, key=lambda value: sum(map(is_one, value.shape))).layout
    names = [
        graph.constant(_without_leading_ones(value.transpose(layout[: value.ndim])))
        if isinstance(value, np.ndarray)
        else graph.in_layout(value, layout)
        for value in values
    ]
    sizes = zip(*(value.shape for value in values if value.shape), strict=True)
    shape = tuple(next((n for n in along if not is_one(n)), 1) for along in sizes)
    return Tensor(compute(*names), shape, layout)


def _without_leading_ones(array: np.ndarray) -> np.ndarray:
    """Returns what broadcasts in the same way, such as a bias (features,) of a dense layer."""
    first = next((axis for axis, n in enumerate(array.shape) if n != 1), array.ndim)
    return array.reshape(array.shape[first:])


# The operators of ONNX, one after the other, that compute an elementwise primitive.
_CHAINS = {
    'abs': ['Abs'],
    'add': ['Add'],
    'add_any': ['Add'],
    'and': ['And'],
    'ceil': ['Ceil'],
    'cos': ['Cos'],
    'div': ['Div'],
    'eq': ['Equal'],
    'erf': ['Erf'],
    'exp': ['Exp'],
    'floor': ['Floor'],
    'ge': ['GreaterOrEqual'],
    'gt': ['Greater'],
    'le': ['LessOrEqual'],
    'log': ['Log'],
    'logistic': ['Sigmoid'],
    'lt': ['Less'],
    'min': ['Min'],
    'mul': ['Mul'],
    'ne': ['Equal', 'Not'],
    'neg': ['Neg'],
    'not': ['Not'],
    'or': ['Or'],
    'pow': ['Pow'],
    'rsqrt': ['Sqrt', 'Reciprocal'],
    'sign': ['Sign'],
    'sin': ['Sin'],
    'sqrt': ['Sqrt'],
    'sub': ['Sub'],
    'tanh': ['Tanh'],
}


@rule(*_CHAINS)
def _chain(graph: Graph, eqn: Any, *values: Value) -> Value:
    first, *more = _CHAINS[eqn.primitive.name]

    def compute(*names: str) -> str:
        start = graph.emit(first, *names)
        return functools.reduce(lambda name, op: graph.emit(op, name), more, start)

    return _elementwise(graph, compute, *values)


@rule('max')
def _max(graph: Graph, eqn: Any, x: Value, y: Value) -> Value:
    for value, other in ((x, y), (y, x)):
        if isinstance(other, np.ndarray) and not other.any():
            return _elementwise(graph, functools.partial(graph.emit, 'Relu'), value)
        if isinstance(other, np.ndarray) and np.isneginf(other).all():  # in a softmax
            return value
    return _elementwise(graph, functools.partial(graph.emit, 'Max'), x, y)


@rule('square', 'integer_pow')
def _power(graph: Graph, eqn: Any, x: Value) -> Value:
    exponent = eqn.params.get('y', 2)

    def compute(name: str) -> str:
        if exponent == 2:
            return graph.emit('Mul', name, name)
        return graph.emit('Pow', name, graph.constant(np.array(exponent, np.float32)))

    return _elementwise(graph, compute, x)


_WITH_ONE: dict[str, Callable[[Graph, str, str], str]] = {
    'erfc': lambda graph, x, one: graph.emit('Sub', one, graph.emit('Erf', x)),
    'expm1': lambda graph, x, one: graph.emit('Sub', graph.emit('Exp', x), one),
    'log1p': lambda graph, x, one: graph.emit('Log', graph.emit('Add', x, one)),
}


@rule(*_WITH_ONE)
def _with_one(graph: Graph, eqn: Any, x: Value) -> Value:
    one = graph.constant(np.ones((), eqn.outvars[0].aval.dtype))
    compute = _WITH_ONE[eqn.primitive.name]
    return _elementwise(graph, lambda name: compute(graph, name, one), x)


@rule('select_n')
def _select(graph: Graph, eqn: Any, which: Value, *cases: Value) -> Value:
    if len(cases) != 2 or eqn.invars[0].aval.dtype != bool:
        raise UnsupportedError('it has more than two cases')
    return _elementwise(graph, functools.partial(graph.emit, 'Where'), which, cases[1], cases[0])


@rule('convert_element_type')
def _cast(graph: Graph, eqn: Any, x: Value) -> Value:
    dtype = eqn.params['new_dtype']
    if dtype == eqn.invars[0].aval.dtype:
        return x
    return _elementwise(graph, lambda name: graph.emit('Cast', name, to=onnx_dtype(dtype)), x)


@rule('copy', 'copy_p', 'stop_gradient')
def _identity(graph: Graph, eqn: Any, x: Value) -> Value:
    return x


@rule('optimization_barrier')
def _barrier(graph: Graph, eqn: Any, *values: Value) -> list[Value]:
    return list(values)


@rule('broadcast_in_dim')
def _broadcast(graph: Graph, eqn: Any, x: Value, *sizes: Value) -> Value:
    shape: list[Any] = [1] * len(eqn.params['shape'])
    for axis, size in zip(eqn.params['broadcast_dimensions'], x.shape, strict=True):
        shape[axis] = size
    return graph.reshape(x, tuple(shape))


@rule('reshape', 'squeeze', 'expand_dims')
def _reshape(graph: Graph, eqn: Any, x: Value, *sizes: Value) -> Value:
    return graph.reshape(graph.full(x, eqn.invars[0].aval.shape), eqn.outvars[0].aval.shape)


@rule('transpose')
def _transpose(graph: Graph, eqn: Any, x: Tensor) -> Value:
    permutation = eqn.params['permutation']
    shape = tuple(x.shape[axis] for axis in permutation)
    return Tensor(x.name, shape, tuple(permutation.index(axis) for axis in x.layout))


@rule('concatenate')
def _concatenate(graph: Graph, eqn: Any, *values: Value) -> Value:
    axis = eqn.params['dimension']
    layout = next(value.layout for value in values if isinstance(value, Tensor))
    shapes = [var.aval.shape for var in eqn.invars]
    names = [graph.in_layout(graph.full(v, s), layout) for v, s in zip(values, shapes, strict=True)]
    name = graph.emit('Concat', *names, axis=layout.index(axis))
    return Tensor(name, eqn.outvars[0].aval.shape, layout)


@rule('split')
def _split(graph: Graph, eqn: Any, x: Tensor) -> list[Value]:
    axis, sizes = x.layout.index(eqn.params['axis']), eqn.params['sizes']
    x = graph.full(x, eqn.invars[0].aval.shape)
    names = graph.emit('Split', x.name, graph.integers(sizes), axis=axis, outputs=len(sizes))
    return [
        Tensor(name, var.aval.shape, x.layout) for name, var in zip(names, eqn.outvars, strict=True)
    ]


@rule('slice')
def _slice(graph: Graph, eqn: Any, x: Tensor) -> Value:
    p, old = eqn.params, eqn.invars[0].aval.shape
    starts, ends = p['start_indices'], p['limit_indices']
    steps = p['strides'] or (1,) * len(old)
    axes = [a for a, n in enumerate(old) if (starts[a], ends[a], steps[a]) != (0, n, 1)]
    x = graph.full(x, old)
    if not all(isinstance(ends[axis], int) for axis in axes):
        raise UnsupportedError(f'it slices an axis of symbolic size: {ends}')
    return _sliced(graph, x, axes, starts, ends, steps, eqn.outvars[0].aval.shape)


def _sliced(
    graph: Graph, x: Tensor, axes: Sequence[int], starts: Any, ends: Any, steps: Any, shape: Any
) -> Tensor:
    """Returns the elements from `starts` to `ends` along `axes`, which index all three."""
    if not axes:
        return x
    along = [[of[axis] for axis in axes] for of in (starts, ends)]
    places = [x.layout.index(axis) for axis in axes]
    operands = [graph.integers(v) for v in (*along, places, [steps[axis] for axis in axes])]
    return Tensor(graph.emit('Slice', x.name, *operands), shape, x.layout)


@rule('pad')
def _pad(graph: Graph, eqn: Any, x: Tensor, fill: Value) -> Value:
    config = eqn.params['padding_config']
    if any(between for *_, between in config):
        raise UnsupportedError('it pads between elements')
    if not isinstance(fill, np.ndarray):
        raise UnsupportedError('it pads with a value that is not a constant')
    x = graph.full(x, eqn.invars[0].aval.shape)
    return padded(graph, x, [(int(lo), int(hi)) for lo, hi, _ in config], fill)


def padded(graph: Graph, x: Tensor, padding: Pairs, fill: np.ndarray) -> Tensor:
    """Returns a tensor after padding, or cropping where `padding` is negative."""
    crops = [axis for axis, pair in enumerate(padding) if min(pair) < 0]
    if crops:
        starts = [max(-lo, 0) for lo, _ in padding]
        ends = [n if hi >= 0 else hi for n, (_, hi) in zip(x.shape, padding, strict=True)]
        cut = (min(lo, 0) + min(hi, 0) for lo, hi in padding)
        shape = tuple(n + m for n, m in zip(x.shape, cut, strict=True))
        x = _sliced(graph, x, crops, starts, ends, [1] * len(shape), shape)
    grown = [(max(lo, 0), max(hi, 0)) for lo, hi in padding]
    if not any(map(any, grown)):
        return x
    pads = [grown[axis][side] for side in (0, 1) for axis in x.layout]
    name = graph.emit('Pad', x.name, graph.integers(pads), graph.constant(fill.reshape(())))
    shape = tuple(n + lo + hi for n, (lo, hi) in zip(x.shape, grown, strict=True))
    return Tensor(name, shape, x.layout)


_REDUCTIONS = {
    'reduce_sum': 'ReduceSum',
    'reduce_max': 'ReduceMax',
    'reduce_min': 'ReduceMin',
    'reduce_prod': 'ReduceProd',
}


@rule(*_REDUCTIONS)
def _reduce(graph: Graph, eqn: Any, x: Tensor) -> Value:
    axes = eqn.params['axes']
    if not axes:
        return x
    x = graph.full(x, eqn.invars[0].aval.shape)
    places = graph.integers(sorted(x.layout.index(axis) for axis in axes))
    name = graph.emit(_REDUCTIONS[eqn.primitive.name], x.name, places, keepdims=0)
    return Tensor(name, eqn.outvars[0].aval.shape, _without(x.layout, axes))


@rule('argmax', 'argmin')
def _arg(graph: Graph, eqn: Any, x: Tensor) -> Value:
    op = {'argmax': 'ArgMax', 'argmin': 'ArgMin'}[eqn.primitive.name]
    (axis,) = eqn.params['axes']
    x = graph.full(x, eqn.invars[0].aval.shape)
    name = graph.emit(op, x.name, axis=x.layout.index(axis), keepdims=0)
    name = graph.emit('Cast', name, to=onnx_dtype(eqn.params['index_dtype']))
    return Tensor(name, eqn.outvars[0].aval.shape, _without(x.layout, [axis]))


def _without(layout: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """Returns a layout after the removal of axes of the value."""
    kept = [axis for axis in layout if axis not in axes]
    return tuple(sorted(kept).index(axis) for axis in kept)


@rule('gather')
def _gather(graph: Graph, eqn: Any, x: Value, indices: Value) -> Value:
    """A slice at a constant place, or whole slices along one axis, as an embedding reads them."""
    numbers, old = eqn.params['dimension_numbers'], eqn.invars[0].aval.shape
    shape, sizes = eqn.outvars[0].aval.shape, tuple(eqn.params['slice_sizes'])
    x = graph.full(x, old)
    if isinstance(x, Tensor) and isinstance(indices, np.ndarray) and indices.ndim == 1:
        starts = dict(zip(numbers.start_index_map, indices.tolist(), strict=True))
        ends = {axis: start + sizes[axis] for axis, start in starts.items()}
        part = _sliced(graph, x, list(starts), starts, ends, [1] * len(old), sizes)
        return graph.reshape(part, shape) if numbers.collapsed_slice_dims else part
    axis, *more = numbers.start_index_map
    indices = graph.reshape(indices, indices.shape[:-1])
    of_indices = range(axis, axis + len(indices.shape))
    is_along_axis = (
        not more
        and numbers.collapsed_slice_dims == (axis,)
        and sizes == (*old[:axis], 1, *old[axis + 1 :])
        and numbers.offset_dims == tuple(i for i in range(len(shape)) if i not in of_indices)
    )
    if not is_along_axis:
        raise UnsupportedError('it does not read whole slices along one axis')
    name = graph.emit('Gather', graph.plain(x), graph.plain(indices), axis=axis)
    return plain_tensor(name, shape)


@rule('dim_as_value')
def _size(graph: Graph, eqn: Any) -> Value:
    raise UnsupportedError(f'it computes with the symbolic size {eqn.params["dim"]}')


@rule('dot_general')
def _dot(graph: Graph, eqn: Any, x: Value, y: Value) -> Value:
    contract, batch = eqn.params['dimension_numbers']
    x, y = (graph.full(v, var.aval.shape) for v, var in zip((x, y), eqn.invars, strict=True))
    shape = eqn.outvars[0].aval.shape
    if not any(batch) and len(y.shape) == 2 and contract == ((len(x.shape) - 1,), (0,)):
        return plain_tensor(graph.emit('MatMul', graph.plain(x), graph.plain(y)), shape)
    letters = iter('abcdefghijklmnopqrstuvwxyz')
    of_x = [next(letters) for _ in x.shape]
    same = {b: of_x[a] for a, b in (*zip(*contract, strict=True), *zip(*batch, strict=True))}
    of_y = [same.get(axis) or next(letters) for axis in range(len(y.shape))]
    of_batch = [of_x[axis] for axis in batch[0]]
    rest = [a for a in (*of_x, *of_y) if (a in of_x) != (a in of_y)]
    layouts = [v.layout if isinstance(v, Tensor) else range(len(v.shape)) for v in (x, y)]
    terms = [
        ''.join(of[axis] for axis in layout)
        for of, layout in zip((of_x, of_y), layouts, strict=True)
    ]
    names = [graph.in_layout(v, layout) for v, layout in zip((x, y), layouts, strict=True)]
    equation = f'{",".join(terms)}->{"".join((*of_batch, *rest))}'
    return plain_tensor(graph.emit('Einsum', *names, equation=equation), shape)

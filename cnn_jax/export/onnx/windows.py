"""Convolutions and pools in ONNX, which has the features second."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn_jax.export.onnx.graph import Graph, Tensor, UnsupportedError, Value, plain_tensor
from cnn_jax.export.onnx.rules import Pairs, Rule, padded

MOST_AXES = 3  # ONNX Runtime pools over at most as many


def convolution(graph: Graph, eqn: Any, x: Value, kernel: Value) -> Value:
    p = eqn.params
    if p['batch_group_count'] != 1:
        raise UnsupportedError(f'its batch_group_count is {p["batch_group_count"]}, not 1')
    x = graph.full(x, eqn.invars[0].aval.shape)
    kernel = graph.full(kernel, eqn.invars[1].aval.shape)
    if isinstance(x, np.ndarray):
        x = plain_tensor(graph.constant(x), x.shape)
    layouts = p['dimension_numbers']
    transform = _transposed if set(p['lhs_dilation']) - {1} else _direct
    name = transform(graph, p, x, kernel, layouts)
    return Tensor(name, eqn.outvars[0].aval.shape, layouts.out_spec)


def _direct(graph: Graph, p: dict[str, Any], x: Tensor, kernel: Value, layouts: Any) -> str:
    padding: Pairs = p['padding']
    if min(map(min, padding), default=0) < 0:
        x, padding = _pad_spatial(graph, x, padding, layouts), [(0, 0)] * len(padding)
    return graph.emit(
        'Conv',
        graph.in_layout(x, layouts.lhs_spec),
        graph.in_layout(kernel, layouts.rhs_spec),
        dilations=list(p['rhs_dilation']),
        group=p['feature_group_count'],
        kernel_shape=[kernel.shape[axis] for axis in layouts.rhs_spec[2:]],
        pads=onnx_pads(padding),
        strides=list(p['window_strides']),
    )


def _transposed(graph: Graph, p: dict[str, Any], x: Tensor, kernel: Value, layouts: Any) -> str:
    """A convolution of an input with holes: ONNX's ConvTranspose with the flipped kernel.

    ConvTranspose crops `full`, which has (n - 1) s + d (k - 1) + 1 positions; the padding of the
    convolution is what is left of d (k - 1).
    """
    if set(p['window_strides']) != {1}:
        raise UnsupportedError(f'it has both holes in the input and strides {p["window_strides"]}')
    if not isinstance(kernel, np.ndarray):
        raise UnsupportedError('it has holes in the input, and its kernel is not a constant')
    groups, ndim = p['feature_group_count'], len(p['padding'])
    weights = np.flip(
        kernel.transpose(layouts.rhs_spec), tuple(range(2, 2 + ndim))
    )  # (out, in/g, *k)
    out, _, *window = weights.shape
    weights = weights.reshape(groups, out // groups, -1, *window).swapaxes(1, 2)
    weights = weights.reshape(-1, out // groups, *window)
    reach = [d * (k - 1) for d, k in zip(p['rhs_dilation'], window, strict=True)]
    crop = [(r - lo, r - hi) for r, (lo, hi) in zip(reach, p['padding'], strict=True)]
    name = graph.emit(
        'ConvTranspose',
        graph.in_layout(x, layouts.lhs_spec),
        graph.constant(weights),
        dilations=list(p['rhs_dilation']),
        group=groups,
        kernel_shape=window,
        pads=onnx_pads([(max(lo, 0), max(hi, 0)) for lo, hi in crop]),
        strides=list(p['lhs_dilation']),
    )
    if min(map(min, crop)) >= 0:
        return name
    pads = onnx_pads([(0, 0), (0, 0), *((max(-lo, 0), max(-hi, 0)) for lo, hi in crop)])
    return graph.emit('Pad', name, graph.integers(pads), graph.constant(np.zeros((), kernel.dtype)))


def _pad_spatial(graph: Graph, x: Tensor, padding: Pairs, layouts: Any) -> Tensor:
    along = dict(zip(layouts.lhs_spec[2:], padding, strict=True))
    pairs = [along.get(axis, (0, 0)) for axis in range(len(x.shape))]
    return padded(graph, x, pairs, np.zeros((), np.float32))


def max_pool(graph: Graph, eqn: Any, x: Tensor) -> Value:
    lowest = np.array(-np.inf, eqn.invars[0].aval.dtype)
    name, layout = _pool(graph, 'MaxPool', eqn, x, lowest)
    return Tensor(name, eqn.outvars[0].aval.shape, layout)


def sum_pool(graph: Graph, eqn: Any, x: Tensor) -> Value:
    zero = np.zeros((), eqn.invars[0].aval.dtype)
    name, layout = _pool(graph, 'AveragePool', eqn, x, zero, count_include_pad=1)
    count = np.array(math.prod(eqn.params['window_dimensions']), zero.dtype)
    return Tensor(graph.emit('Mul', name, graph.constant(count)), eqn.outvars[0].aval.shape, layout)


def _pool(
    graph: Graph, op: str, eqn: Any, x: Tensor, fill: np.ndarray, **attributes: Any
) -> tuple[str, tuple[int, ...]]:
    p, ndim = eqn.params, len(x.shape)
    window, strides, padding = p['window_dimensions'], p['window_strides'], p['padding']
    axes = [a for a in range(ndim) if (window[a], strides[a], padding[a]) != (1, 1, (0, 0))]
    others = [a for a in range(ndim) if a not in axes]
    while len(others) > 2:  # an axis with window 1
        axes = sorted([*axes, others.pop(1)])
    if set(p['base_dilation']) != {1}:
        raise UnsupportedError('its input has holes')
    if len(others) != 2 or len(axes) > MOST_AXES:
        raise UnsupportedError(f'its window is {window}; ONNX pools over 1 to {MOST_AXES} axes')
    x = graph.full(x, eqn.invars[0].aval.shape)
    if any(pad >= n for axis in axes for pad in padding[axis] for n in [window[axis]]):
        x, padding = padded(graph, x, padding, fill), [(0, 0)] * ndim
    layout = (*others, *axes)
    name = graph.emit(
        op,
        graph.in_layout(x, layout),
        dilations=[p['window_dilation'][axis] for axis in axes],
        kernel_shape=[window[axis] for axis in axes],
        pads=onnx_pads([padding[axis] for axis in axes]),
        strides=[strides[axis] for axis in axes],
        **attributes,
    )
    return name, layout


def onnx_pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    """Returns all paddings before the elements, then all after them."""
    return [int(lo) for lo, _ in padding] + [int(hi) for _, hi in padding]


RULES: dict[str, Rule] = {
    'conv_general_dilated': convolution,
    'reduce_window_max': max_pool,
    'reduce_window_sum': sum_pool,
}

"""An ONNX graph under construction.

JAX's convolutions have the features last, those of ONNX have them second. So an ONNX tensor may
hold the axes of a value in another order, its layout. Convolution and pooling choose the layout,
elementwise operations keep it, and only operations that depend on the order, such as a reshape,
transpose the tensor. A value may also have size 1 on an axis along which it is to be broadcast,
since elementwise operations of ONNX broadcast.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cnn_jax.errors import UserError

Shape = tuple[Any, ...]  # of ints and symbolic sizes


class UnsupportedError(UserError):
    """An equation of the network cannot be written in ONNX."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value that the ONNX graph computes.

    Attributes:
        name: name of the ONNX tensor, which is `transpose(value, layout)`.
        shape: shape of the value.
        layout: axis of the value for each axis of the ONNX tensor.
    """

    name: str
    shape: Shape
    layout: tuple[int, ...]


Value = Tensor | np.ndarray  # an array is a constant
V = TypeVar('V', Tensor, np.ndarray, Value)  # the operations keep the kind


class Graph:
    """Nodes and constants of an ONNX graph.

    Args:
        opset: version of ONNX's operators.
    """

    def __init__(self, opset: int):
        self.opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, np.ndarray] = {}
        self._known: dict[Any, str] = {}  # what a constant or a transposition is -> its name

    def emit(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Appends a node; returns the name of its result, or the list of names."""
        names = [f'{op.lower()}_{len(self._nodes)}' + f'_{i}' * (i > 0) for i in range(outputs)]
        self._nodes.append(helper.make_node(op, inputs, names, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array: np.ndarray) -> str:
        """Returns the name of a constant, the same for equal small arrays."""
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else None
        if key not in self._known or key is None:
            name = f'constant_{len(self._constants)}'
            self._constants[name] = np.ascontiguousarray(array).reshape(array.shape)
            self._known[key] = name
        return self._known[key]

    def integers(self, values: Sequence[int]) -> str:
        """Returns the name of a constant vector of int64, as ONNX takes axes and shapes."""
        return self.constant(np.array(values, np.int64))

    def in_layout(self, value: Value, layout: Sequence[int]) -> str:
        """Returns the name of the ONNX tensor that holds a value in a layout."""
        layout = tuple(layout)
        if isinstance(value, np.ndarray):
            return self.constant(value.transpose(layout))
        if value.layout == layout:
            return value.name
        perm = [value.layout.index(axis) for axis in layout]
        key = (value.name, *perm)
        if key not in self._known:
            self._known[key] = self.emit('Transpose', value.name, perm=perm)
        return self._known[key]

    def plain(self, value: Value) -> str:
        """Returns the name of the ONNX tensor whose axes are in the order of the value's."""
        return self.in_layout(value, range(len(value.shape)))

    def full(self, value: V, shape: Shape) -> V:
        """Returns the value after broadcasting to `shape`.

        Raises:
            UnsupportedError: it would be repeated along an axis of symbolic size.
        """
        axes = [i for i, n in enumerate(shape) if is_one(value.shape[i]) and not is_one(n)]
        if not axes:
            return value
        if not all(isinstance(shape[i], int) for i in axes):
            raise UnsupportedError(f'a constant would be repeated to the symbolic size {shape}')
        if isinstance(value, np.ndarray):
            return np.broadcast_to(value, shape)  # type: ignore[return-value]
        sizes = [shape[i] if i in axes else 1 for i in value.layout]  # 1 keeps the axis as it is
        return Tensor(self.emit('Expand', value.name, self.integers(sizes)), shape, value.layout)

    def reshape(self, value: V, shape: Shape) -> V:
        """Returns the value in row-major order with another shape.

        Raises:
            UnsupportedError: more than one symbolic size changes its place.
        """
        if isinstance(value, np.ndarray):
            sizes = [n if isinstance(n, int) else 1 for n in shape]
            return value.reshape(sizes)  # type: ignore[return-value]
        if value.shape == shape:
            return value
        old = dict(enumerate(value.shape))
        sizes = [
            n if isinstance(n, int) else 0 if old.get(i) == n else -1  # 0 keeps the size
            for i, n in enumerate(shape)
        ]
        if sizes.count(-1) > 1:
            raise UnsupportedError(f'the reshape from {value.shape} to {shape} has symbolic sizes')
        name = self.emit('Reshape', self.plain(value), self.integers(sizes))
        return plain_tensor(name, shape)

    def model(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> onnx.ModelProto:
        """Returns the model of the nodes that the outputs depend on.

        Args:
            inputs: name -> shape and dtype.
            outputs: name -> (name of the tensor, shape and dtype).
        """
        for name, (source, _) in outputs.items():
            self._nodes.append(helper.make_node('Identity', [source], [name], name=name))
        needed, nodes = set(outputs), []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        graph = helper.make_graph(
            nodes[::-1],
            'cnn_jax',
            [_value_info(name, aval) for name, aval in inputs.items()],
            [_value_info(name, aval) for name, (_, aval) in outputs.items()],
            [numpy_helper.from_array(a, n) for n, a in self._constants.items() if n in needed],
        )
        versions = [helper.make_opsetid('', self.opset)]
        return helper.make_model(
            graph,
            opset_imports=versions,
            ir_version=helper.find_min_ir_version_for(versions),
            producer_name='cnn_jax',
        )


def plain_tensor(name: str, shape: Shape) -> Tensor:
    """Returns a tensor whose axes are in the order of the value's."""
    return Tensor(name, tuple(shape), tuple(range(len(shape))))


def onnx_dtype(dtype: Any) -> int:
    """Returns ONNX's number of a dtype."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def is_one(size: Any) -> bool:
    """Returns whether a size, perhaps symbolic, is known to be 1."""
    return isinstance(size, int) and size == 1


def _value_info(name: str, aval: Any) -> onnx.ValueInfoProto:
    sizes = [n if isinstance(n, int) else str(n) for n in aval.shape]
    return helper.make_tensor_value_info(name, onnx_dtype(aval.dtype), sizes)

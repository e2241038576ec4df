"""Parameters and multiply-adds of a model per layer, from shapes alone, without computing anything.

One multiply-accumulate (MAC) is one multiplication and one addition, so it counts as two FLOPs. The
counts are for one example. They include convolutions (in direct form, with padding counted as
data), transposed convolutions and dense layers. They exclude biases, normalisation, activations and
pooling, as in torchvision's tables.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnn_jax import nn


@dataclasses.dataclass(frozen=True)
class Row:
    """One call of a layer, which is a module with its own variables or without submodules.

    Attributes:
        name: path in the model, without the components 'layers'.
        type: the module's class.
        input_shape, output_shape: shapes of one example, without the batch axis.
        window, strides, dilation: per spatial axis; () for a layer without a window.
        groups: number of groups of a convolution, else 1.
        parameters: number of trainable parameters; 0 at a second call of the same layer.
        macs: multiply-accumulates for one example.
    """

    name: str
    type: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    parameters: int
    macs: int


def parameters(module: nnx.Module) -> int:
    """Counts the trainable parameters (`nnx.Param`) of a module, which may be abstract."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def macs(model: nnx.Module, input_shape: Sequence[int] | None = None) -> int:
    """Counts the multiply-accumulates for one example; takes the arguments of `summary`."""
    return sum(row.macs for row in summary(model, input_shape))


def summary(
    model: nnx.Module, input_shape: Sequence[int] | None = None, dtype: Any = None
) -> tuple[Row, ...]:
    """Returns every layer's shapes, parameters and multiply-adds, in order of execution.

    Works with any NNX model that takes one array, including an abstract model (`nnx.eval_shape`),
    whose parameters were never created.

    Args:
        model: the model.
        input_shape: shape of one example, without a batch axis; None means `model.input_shape`.
        dtype: dtype of the input; None means int32 for `model.kind == 'text'`, else float32.
    """
    shape = tuple(model.input_shape if input_shape is None else input_shape)
    if dtype is None:
        dtype = jnp.int32 if getattr(model, 'kind', None) == 'text' else jnp.float32
    graph, state = nnx.split(model)
    rows: list[Row] = []

    def run(state: Any, x: jax.Array) -> Any:
        merged = nnx.merge(graph, state)
        with _recorded(merged, rows):
            return merged(x)

    jax.eval_shape(run, state, jax.ShapeDtypeStruct((1, *shape), dtype))
    return tuple(rows)


def named_layers(model: nnx.Module) -> list[tuple[str, nnx.Module]]:
    """Returns (name, layer) of every layer of a model, named as in `summary`."""
    modules = [(path, m) for path, m in nnx.iter_graph(model) if isinstance(m, nnx.Module)]
    # A layer is a module with its own variables or without submodules.
    parents = {path[:i] for path, _ in modules for i in range(len(path))}
    owners = {
        path for path, m in modules if any(isinstance(v, nnx.Variable) for v in vars(m).values())
    }
    found = []
    for path, module in modules:
        inside_a_layer = any(path[:i] in owners for i in range(len(path)))
        if (path in owners or path not in parents) and not inside_a_layer:
            found.append(('.'.join(str(p) for p in path if p != 'layers'), module))
    return found


@contextlib.contextmanager
def _recorded(model: nnx.Module, rows: list[Row]) -> Iterator[None]:
    """Context manager in which every call of a layer of `model` appends a row."""
    named = named_layers(model)
    names = {id(layer): name for name, layer in named}
    running: set[int] = set()
    seen: set[int] = set()

    def recorder(original: Any) -> Any:
        def call(module: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            # A subclass that calls `super().__call__` is still one call of one layer.
            if id(module) not in names or id(module) in running:
                return original(module, x, *args, **kwargs)
            running.add(id(module))
            try:
                y = original(module, x, *args, **kwargs)
            finally:
                running.remove(id(module))
            rows.append(_row(names[id(module)], module, x, y, id(module) in seen))
            seen.add(id(module))
            return y

        return call

    # Flax has no hook on calls, so this temporarily replaces __call__ of the classes.
    classes = {type(layer) for _, layer in named if callable(layer)}
    inherited = {cls for cls in classes if '__call__' not in vars(cls)}
    originals = {cls: cls.__call__ for cls in classes}
    for cls, original in originals.items():
        cls.__call__ = recorder(original)
    try:
        yield
    finally:
        for cls, original in originals.items():
            if cls in inherited:
                del cls.__call__
            else:
                cls.__call__ = original


def _row(name: str, module: Any, x: jax.Array, y: jax.Array, again: bool) -> Row:
    window = getattr(module, 'kernel_size', getattr(module, 'window_shape', ()))
    strides = getattr(module, 'strides', 1)
    if strides is None:  # a pool's default is its window, a convolution's is 1
        strides = window if hasattr(module, 'window_shape') else 1
    dilation = getattr(module, 'kernel_dilation', getattr(module, 'dilation', 1))
    ndim = len(window)
    return Row(
        name=name,
        type=type(module).__name__,
        input_shape=x.shape[1:],
        output_shape=y.shape[1:],
        window=tuple(window),
        strides=nn.sizes.per_axis(strides, ndim) if ndim else (),
        dilation=nn.sizes.per_axis(dilation, ndim) if ndim else (),
        groups=getattr(module, 'feature_group_count', 1),
        parameters=0 if again else parameters(module),
        macs=_macs(module, x.shape, y.shape),
    )


def _macs(module: Any, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> int:
    if hasattr(module, 'macs'):  # a custom module counts its own
        return module.macs(x_shape, y_shape)
    if isinstance(module, nnx.Conv):
        return math.prod(y_shape[1:-1]) * math.prod(module.kernel_shape)
    if isinstance(module, nn.ConvTranspose | nnx.ConvTranspose):
        return math.prod(x_shape[1:-1]) * math.prod(module.kernel.shape)
    if isinstance(module, nnx.Linear):
        return math.prod(x_shape[1:]) * module.out_features
    return 0

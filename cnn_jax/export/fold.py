"""Folds batch norm into the layer before it, for inference.

With running statistics, batch norm is y = a x + b per channel, where
a = scale / sqrt(var + epsilon) and b = bias - a mean (Ioffe and Szegedy 2015, arXiv:1502.03167,
section 3.1). After a layer W x + c it is a W x + (a c + b), which is such a layer itself.
"""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnn_jax import nn

# Layers whose kernel has the output features last. A subclass may use its kernel differently.
FOLDABLE = (nn.Conv, nn.CausalConv, nn.ConvTranspose, nnx.Conv, nnx.Linear)


class ScaleShift(nnx.Module):
    """Computes `x * scale + shift` per feature, (..., features), in `dtype`.

    Args:
        scale, shift: (features,).
        dtype: dtype of the computation and the result; None means that of x.
    """

    def __init__(self, scale: jax.Array, shift: jax.Array, dtype: Any = None):
        self.scale = nnx.Param(scale)
        self.shift = nnx.Param(shift)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = self.dtype or x.dtype
        scale, shift = (value[...].astype(dtype) for value in (self.scale, self.shift))
        return x.astype(dtype) * scale + shift


def fold_batch_norm(model: nnx.Module) -> nnx.Module:
    """Returns a copy of a model without batch norm, for evaluation.

    In every `nn.Layers`, a batch norm directly after a convolution or a dense layer is folded into
    it, and any other batch norm becomes a `ScaleShift`. A batch norm that a module calls in its own
    code stays: the layer before it is unknown.

    Args:
        model: a model with concrete arrays; it is not changed.
    """
    model = nnx.clone(model)
    modules = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)]
    uses = Counter(id(child) for module in modules for child in vars(module).values())
    for layers in modules:
        if isinstance(layers, nn.Layers):
            _fold(layers, uses)
    return model


def _fold(layers: nn.Layers, uses: Counter[int]) -> None:
    is_chain = type(layers) in (nn.Layers, nn.Residual)  # a `Concat` applies its layers in parallel
    before: Any = None
    for name, layer in list(layers.items()):
        if isinstance(layer, nnx.BatchNorm) and layer.axis == -1:
            scale, shift = scale_and_shift(layer)
            if is_chain and type(before) in FOLDABLE and uses[id(before)] == 1:
                _scale_outputs(before, scale, shift)
                replacement: Any = jax.nn.identity
            else:
                replacement = ScaleShift(jnp.float32(scale), jnp.float32(shift), layer.dtype)
            delattr(layers, name)
            setattr(layers, name, replacement)
        before = layer


def scale_and_shift(norm: nnx.BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    """Returns a and b of the batch norm a x + b, each float64 (features,)."""
    mean, var = np.asarray(norm.mean[...], np.float64), np.asarray(norm.var[...], np.float64)
    scale = 1 / np.sqrt(var + norm.epsilon)
    if norm.scale is not None:
        scale = scale * np.asarray(norm.scale[...], np.float64)
    shift = -scale * mean
    if norm.bias is not None:
        shift = shift + np.asarray(norm.bias[...], np.float64)
    return scale, shift


def _scale_outputs(layer: Any, scale: np.ndarray, shift: np.ndarray) -> None:
    """Makes a layer return `scale * y + shift` instead of y."""
    kernel = np.asarray(layer.kernel[...], np.float64) * scale
    bias = 0.0 if layer.bias is None else np.asarray(layer.bias[...], np.float64)
    layer.kernel = layer.kernel.replace(jnp.asarray(kernel, layer.kernel.dtype))
    layer.bias = nnx.Param(jnp.asarray(scale * bias + shift, layer.kernel.dtype))
    layer.use_bias = True

"""Defines `ConvTranspose`, the transposed convolution as a module."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import dtypes
from flax.nnx.nn.linear import default_bias_init, default_kernel_init

from cnn_jax.nn import sizes
from cnn_jax.ops import spec
from cnn_jax.ops.transposed_convolution import conv_transpose, resolve_crop
from cnn_jax.ops.types import DTypeLike, Implementation, Padding, PrecisionLike


class ConvTranspose(nnx.Module):
    """Transposed convolution with any number of spatial axes: `cnn_jax.conv_transpose`.

    Uses Flax's argument names, parameter names and initialisers: `kernel` has shape
    (*window, in // groups, out), `bias` (out,). Unlike `flax.nnx.ConvTranspose`, it supports groups
    and output padding. By default, `padding` has PyTorch's meaning: with the strides and padding of
    a `Conv`, this layer undoes the change of size of that `Conv`.

        ConvTranspose(64, 3, (4, 4), 2, padding=1, rngs=rngs)(jnp.ones((8, 16, 16, 64))).shape
            == (8, 32, 32, 3)

    Args:
        in_features, out_features: numbers of channels.
        kernel_size: shape of the window; an int means one spatial axis.
        strides, kernel_dilation: an int, or one per spatial axis.
        padding: how much is cropped from the full result; see `cnn_jax.conv_transpose`.
        output_padding: number of positions added at the end. It selects one of the input sizes
            that a strided convolution maps to the same output size.
        feature_group_count: number of channel groups, which are convolved independently.
        use_bias: whether to add a bias.
        convention: 'torch', 'keras' or 'lax' ('lax' gives `padding` and the kernel's order the
            meaning that they have in flax.nnx.ConvTranspose).
        dtype: dtype of the computation; None means the promoted dtype of inputs and parameters.
        param_dtype: dtype of the parameters.
        precision: as in jax.lax.
        kernel_init, bias_init: initialisers.
        implementation: the kernel that computes the transposed convolution.
        rngs: source of initial parameters.

    Raises:
        ValueError: `feature_group_count` does not divide both channel counts.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        padding: Padding = 'SAME',
        output_padding: int | Sequence[int] = 0,
        kernel_dilation: int | Sequence[int] | None = 1,
        feature_group_count: int = 1,
        use_bias: bool = True,
        convention: str = 'torch',
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: nnx.Initializer = default_kernel_init,
        bias_init: nnx.Initializer = default_bias_init,
        implementation: Implementation = None,
        rngs: nnx.Rngs,
    ):
        sizes.check_features(in_features, out_features, feature_group_count)
        self.in_features = in_features
        self.out_features = out_features
        self.kernel_size = sizes.per_axis(kernel_size, 1)
        self.strides = strides or 1
        self.padding = padding
        self.output_padding = output_padding
        self.kernel_dilation = kernel_dilation or 1
        self.feature_group_count = feature_group_count
        self.convention = convention
        self.dtype = dtype
        self.precision = precision
        self.implementation = implementation
        shape = (*self.kernel_size, in_features // feature_group_count, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        if use_bias:
            self.bias = nnx.Param(bias_init(rngs.params(), (out_features,), param_dtype))
        else:
            self.bias = nnx.data(None)  # type: ignore[arg-type]  # as in nnx.Conv

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps (*batch, *spatial, in_features) to (*batch, *output spatial, out_features)."""
        bias = None if self.bias is None else self.bias[...]
        inputs, kernel, bias = dtypes.promote_dtype(
            (inputs, self.kernel[...], bias), dtype=self.dtype
        )
        return conv_transpose(
            inputs,
            kernel,
            strides=self.strides,
            padding=self.padding,
            output_padding=self.output_padding,
            dilation=self.kernel_dilation,
            groups=self.feature_group_count,
            bias=bias,
            convention=self.convention,
            precision=self.precision,
            implementation=self.implementation,
        )

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns the spatial size of the result for an input of spatial size `size`."""
        ndim = len(self.kernel_size)
        strides = sizes.per_axis(self.strides, ndim)
        dilation = sizes.per_axis(self.kernel_dilation, ndim)
        window = tuple(map(spec.dilated, self.kernel_size, dilation))
        crops = resolve_crop(self.padding, self.convention, window, strides)
        extra = sizes.per_axis(self.output_padding, ndim)
        return tuple(
            (n - 1) * s + k - lo - hi + e
            for n, s, k, (lo, hi), e in zip(size, strides, window, crops, extra, strict=True)
        )

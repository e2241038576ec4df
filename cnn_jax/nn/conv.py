"""Defines `Conv`, a subclass of `flax.nnx.Conv` that is computed by `cnn_jax.ops`."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from cnn_jax.errors import UserError
from cnn_jax.nn import sizes
from cnn_jax.ops import spec
from cnn_jax.ops.convolution import conv
from cnn_jax.ops.geometry import output_size
from cnn_jax.ops.types import Implementation, Padding, PaddingMode

# Flax passes these modes as `padding`; here padding and padding mode are separate arguments.
_FLAX_MODES: dict[str, PaddingMode] = {'CIRCULAR': 'circular', 'REFLECT': 'reflect'}


class Conv(nnx.Conv):
    """Convolution with any number of spatial axes: `flax.nnx.Conv` computed by `cnn_jax.conv`.

    Takes every argument of `flax.nnx.Conv`, with the same defaults, initialisers and parameter
    names (`kernel` (*window, in // groups, out), `bias` (out,)). It also takes `padding_mode` and
    `implementation`. `padding` may be anything that `cnn_jax.conv` accepts.

        Conv(3, 16, (3, 3), rngs=rngs)(jnp.ones((8, 32, 32, 3))).shape == (8, 32, 32, 16)
        Conv(1, 16, 80, strides=4, rngs=rngs)(jnp.ones((8, 8000, 1))).shape == (8, 2000, 16)

    Args:
        in_features, out_features: numbers of channels.
        kernel_size: shape of the window; an int means one spatial axis.
        padding_mode: 'zeros', 'reflect', 'replicate' or 'circular'.
        implementation: the kernel that computes the convolution; see `cnn_jax.conv`.
        **flax: the other arguments of `flax.nnx.Conv` (strides, padding='SAME', input_dilation,
            kernel_dilation, feature_group_count, use_bias, mask, dtype, param_dtype, precision,
            kernel_init, bias_init, ...; rngs is required). `dtype` is the dtype of the
            computation; the parameters stay in `param_dtype`.

    Raises:
        ValueError: `feature_group_count` does not divide both channel counts, or `mask` does not
            have the kernel's shape.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = 1,
        *,
        padding: Padding = 'SAME',
        padding_mode: PaddingMode = 'zeros',
        implementation: Implementation = None,
        **flax: Any,
    ):
        sizes.check_features(in_features, out_features, flax.get('feature_group_count', 1))
        if isinstance(padding, str) and padding.upper() in _FLAX_MODES:
            padding_mode = _FLAX_MODES[padding.upper()]
            window = sizes.per_axis(kernel_size, 1)
            dilation = sizes.per_axis(flax.get('kernel_dilation', 1), len(window))
            spans = map(spec.dilated, window, dilation)
            padding = tuple(((span - 1) // 2, span // 2) for span in spans)
        flax['padding'] = padding  # accepts more forms than Flax's type annotation
        super().__init__(in_features, out_features, kernel_size, strides, **flax)
        if self.mask is not None and self.mask.shape != self.kernel_shape:
            raise UserError(f'mask has shape {self.mask.shape}, the kernel {self.kernel_shape}')
        self.padding_mode = padding_mode
        self.implementation = implementation

    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Computes the convolution.

        Args:
            inputs: (*batch, *spatial, in_features).
            out_sharding: sharding of the result; see `cnn_jax.conv`.

        Returns:
            (*batch, *output spatial, out_features), in `dtype`.
        """
        bias = None if self.bias is None else self.bias[...]
        inputs, kernel, bias = self.promote_dtype(
            (inputs, self.effective_kernel(), bias), dtype=self.dtype
        )
        return conv(
            inputs,
            kernel,
            strides=1 if self.strides is None else self.strides,
            padding=self.padding,
            dilation=self.kernel_dilation or 1,
            groups=self.feature_group_count,
            bias=bias,
            padding_mode=self.padding_mode,
            input_dilation=self.input_dilation or 1,
            precision=self.precision,
            preferred_element_type=getattr(self, 'preferred_element_type', None),  # flax >= 0.12
            out_sharding=out_sharding,
            implementation=self.implementation,
        )

    def effective_kernel(self) -> jax.Array:
        """Returns the kernel that the layer convolves with: its parameter, masked."""
        kernel = self.kernel[...]
        return kernel if self.mask is None else kernel * self.mask

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Returns the spatial size of the result for an input of spatial size `size`.

        Raises:
            ValueError: the window does not fit into the padded input.
        """
        return output_size(
            tuple(size),
            self.kernel_size,
            strides=self.strides or 1,
            padding=self.padding,
            dilation=self.kernel_dilation or 1,
            input_dilation=self.input_dilation or 1,
        )

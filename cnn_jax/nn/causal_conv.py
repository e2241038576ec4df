"""Defines `CausalConv`, a convolution that can process a signal as it arrives."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax.errors import UserError
from cnn_jax.nn import sizes
from cnn_jax.nn.conv import Conv
from cnn_jax.ops.spec import dilated
from cnn_jax.ops.streaming import conv_stream

_FIXED = ('padding', 'padding_mode', 'input_dilation', 'preferred_element_type')


class CausalConv(Conv):
    """1-D convolution in which no output depends on a later input, for whole signals and streams.

    On whole signals it is `Conv(..., padding='CAUSAL')`: zeros before the signal, none after. With
    a state, it processes a signal chunk by chunk, with the same results; see `cnn_jax.conv_stream`.

        layer = CausalConv(1, 16, 5, kernel_dilation=2, rngs=rngs)
        y = layer(signals)                              # (8, 1000, 1) to (8, 1000, 16)
        state = layer.init_state(8)
        y1, state = layer(signals[:, :300], state)      # y[:, :300]
        y2, state = layer(signals[:, 300:], state)      # y[:, 300:]

    Args:
        in_features, out_features: numbers of channels.
        kernel_size: number of taps.
        strides: as in `Conv`.
        **options: the other arguments of `Conv` (kernel_dilation, feature_group_count, ...; rngs is
            required), but for `padding`, `padding_mode`, `input_dilation` and
            `preferred_element_type`.

    Raises:
        ValueError: `kernel_size` has more than one axis, or an argument is not supported.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int | Sequence[int] | None = 1,
        **options: Any,
    ):
        if bad := [name for name in _FIXED if name in options]:
            raise UserError(f'{bad[0]}={options[bad[0]]!r}: is not an argument of CausalConv')
        if len(sizes.per_axis(kernel_size, 1)) != 1:
            raise UserError(f'kernel_size={kernel_size}: must have 1 spatial axis')
        super().__init__(
            in_features, out_features, kernel_size, strides, padding='CAUSAL', **options
        )

    def init_state(self, batch: int | Sequence[int] = (), dtype: Any = None) -> jax.Array:
        """Returns the state before the first chunk, which is zeros.

        Args:
            batch: number of signals, or the shape of the batch axes.
            dtype: None means the layer's `dtype`, or that of its parameters.

        Returns:
            (*batch, dilation * (kernel_size - 1), in_features).
        """
        (dilation,) = sizes.per_axis(self.kernel_dilation, 1)
        before = dilated(self.kernel_size[0], dilation) - 1
        shape = (*sizes.per_axis(batch, 1), before, self.in_features)
        return jnp.zeros(shape, dtype or self.dtype or self.param_dtype)

    def __call__(  # type: ignore[override]  # two results with a state
        self, inputs: jax.Array, state: jax.Array | None = None, *, out_sharding: Any = None
    ) -> Any:
        """Convolves whole signals, or with a state the next chunk of them.

        Args:
            inputs: (*batch, length, in_features).
            state: None for whole signals. For a chunk, the result of `init_state`, or of the call
                for the chunk before.
            out_sharding: sharding of the result for whole signals; see `cnn_jax.conv`.

        Returns:
            Without a state, (*batch, ceil(length / stride), out_features). With a state, the pair
            of the outputs that the chunk completes and the next state.
        """
        if state is None:
            return super().__call__(inputs, out_sharding)
        bias = None if self.bias is None else self.bias[...]
        inputs, state, kernel, bias = self.promote_dtype(
            (inputs, state, self.effective_kernel(), bias), dtype=self.dtype
        )
        return conv_stream(
            inputs,
            kernel,
            state,
            strides=1 if self.strides is None else self.strides,
            dilation=self.kernel_dilation or 1,
            groups=self.feature_group_count,
            bias=bias,
            precision=self.precision,
            implementation=self.implementation,
        )

"""Causal convolution of a signal that arrives in chunks."""

import jax
import jax.numpy as jnp

from cnn_jax.errors import UserError
from cnn_jax.ops import checks
from cnn_jax.ops.convolution import conv
from cnn_jax.ops.operands import check_operands
from cnn_jax.ops.spec import dilated
from cnn_jax.ops.types import ArrayLike, Implementation, PrecisionLike, Size

Array = jax.Array


def conv_stream(
    x: ArrayLike,
    kernel: ArrayLike,
    state: ArrayLike | None = None,
    *,
    strides: Size = 1,
    dilation: Size = 1,
    groups: int = 1,
    bias: ArrayLike | None = None,
    precision: PrecisionLike = None,
    implementation: Implementation = None,
) -> tuple[Array, Array]:
    """Computes the part of a causal 1-D convolution that a chunk of the signal completes.

    However a signal is cut, the results joined are `conv(signal, kernel, padding='CAUSAL', ...)`:

        y1, state = conv_stream(signal[:, :100], kernel)
        y2, state = conv_stream(signal[:, 100:], kernel, state)

    The state holds the last inputs: the dilation * (window - 1) that the next output sees before
    its own position, and, for strides above 1, those since the last output. So its shape is known
    under `jit`, and does not change if every chunk is a multiple of `strides`, as `scan` requires.

    Args:
        x: the chunk, (*batch, length, in_features), of any length.
        kernel: (window, in_features // groups, out_features).
        state: what the call for the chunk before returned, (*batch, kept, in_features) with
            kept = dilation * (window - 1) + inputs so far % strides. None means the start of the
            signal, which has zeros before it, like a state of zeros.
        strides, dilation, groups, bias, precision, implementation: as in `conv`, the same in every
            call for a signal.

    Returns:
        (y, state): y (*batch, n, out_features), in which n is the number of multiples of `strides`
        among the positions of the chunk in the signal; and the next state, in the dtype of x.

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    x, kernel, bias, ndim = check_operands(x, kernel, bias, groups, None)
    if ndim != 1:
        raise UserError(f'kernel must have 1 spatial axis, got shape {kernel.shape}')
    (stride,) = checks.per_axis(strides, 1, 'strides')
    (between,) = checks.per_axis(dilation, 1, 'dilation')
    before = dilated(kernel.shape[0], between) - 1
    if state is None:
        state = jnp.zeros((*x.shape[:-2], before, x.shape[-1]), x.dtype)
    state = _checked(state, x, before, stride)

    # The signal from the window of the last output on, or from the next one if it starts at x.
    known = jnp.concatenate([state, x], -2)
    since = state.shape[-2] - before  # the last output
    skipped = stride if since else 0
    if known.shape[-2] - skipped <= before:  # x completes no output
        y = jnp.zeros((*x.shape[:-2], 0, kernel.shape[-1]), x.dtype)
    else:
        y = conv(
            known[..., skipped:, :],
            kernel,
            strides=stride,
            padding='VALID',
            dilation=between,
            groups=groups,
            bias=bias,
            precision=precision,
            implementation=implementation,
        )
    kept = before + (since + x.shape[-2]) % stride
    return y, known[..., known.shape[-2] - kept :, :]


def _checked(state: ArrayLike, x: Array, before: int, stride: int) -> Array:
    state = checks.array(state, 'state')
    checks.same_dtype(x=x, state=state)
    wanted = (*x.shape[:-2], before, x.shape[-1])
    axis = x.ndim - 2
    kept = state.shape[axis] if state.ndim == x.ndim else -1
    if state.shape != (*wanted[:axis], kept, wanted[-1]) or not 0 <= kept - before < stride:
        lengths = f' (or up to {before + stride - 1} positions)' if stride > 1 else ''
        raise UserError(f'state must have shape {wanted}{lengths}, got {state.shape}')
    return state

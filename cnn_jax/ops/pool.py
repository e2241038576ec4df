"""Pooling with PyTorch's semantics, channels last: checks, canonicalizes and dispatches calls.

    y[..., o, c] = reduce over t of x[..., strides o - padding + dilation t, c]

in 1, 2 or 3 dimensions. `window` determines the number of spatial axes: a tuple has one element per
spatial axis, and an int applies to all spatial axes of x (batch, *size, features).

The gradient of a maximum goes to one element per window, the first of several equal ones, as in
PyTorch. It consists of comparisons and sums in a fixed order, so it is the same in every run on
every device (XLA's own, select-and-scatter, is not). Forward mode and second derivatives work.
A window that contains a NaN returns NaN, and its gradient goes to the last NaN, as in PyTorch.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.errors import UserError, UserTypeError
from cnn_jax.ops import adaptive, checks, dispatch, pool_kernels
from cnn_jax.ops.dispatch import Implementation
from cnn_jax.ops.pool_kernels.winners import numbers
from cnn_jax.ops.pool_spec import PoolSpec, index_dtype, make_spec, spatial_ndim
from cnn_jax.ops.spec import accumulator
from cnn_jax.ops.types import ArrayLike, Padding, Size

Array = jax.Array

for _op in ('max_pool', 'avg_pool', 'lp_pool'):
    dispatch.declare(_op, pool_kernels.KERNELS)


def max_pool(
    x: ArrayLike,
    window: Size,
    strides: Size | None = None,
    padding: Padding = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    implementation: Implementation = None,
) -> Array | tuple[Array, Array]:
    """Computes the maximum over windows.

    Args:
        x: (*batch, *size, features), floating point or integer, with any number of batch axes.
        window: an int or one per spatial axis.
        strides: an int or one per spatial axis; None means the window.
        padding: an int or one per spatial axis, at most half of the window's span; (lo, hi) pairs,
            each less than its span; or 'VALID', 'SAME' or another name that `conv` accepts. Padding
            holds -inf, or the minimum of an integer dtype.
        dilation: distance between the elements of a window.
        ceil_mode: whether to keep a window that starts in the input, or in the padding before it,
            but ends past all padding.
        return_indices: whether to also return the indices of the maxima.
        implementation: 'reshape', 'shift', 'reduce_window', several in order of preference, or None
            for the default.

    Returns:
        (*batch, *output size, features). With `return_indices`, also the row-major index of each
        maximum in its (*size) plane, as `max_unpool` expects it: int32, or int64 for 2^31 positions
        or more.

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    x = checks.array(x, 'x')
    spec = make_spec(x, window, strides, padding, dilation, ceil_mode, symbolic=not return_indices)
    kernel = _choose('max_pool', spec, implementation)
    if not return_indices:
        return _maximum(x, spec, kernel)
    _check_no_empty_window(spec, 'return_indices')
    index_dtype(math.prod(spec.input_size), 'x with return_indices')
    return _maximum_and_indices(x, spec, kernel)


def avg_pool(
    x: ArrayLike,
    window: Size,
    strides: Size | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    implementation: Implementation = None,
    *,
    dilation: Size = 1,
) -> Array:
    """Computes the average over windows; 16-bit floats accumulate in float32 and are rounded once.

    Args:
        x: (*batch, *size, features), floating point.
        window, strides, padding, dilation, ceil_mode, implementation: as in `max_pool`; padding
            holds zeros.
        count_include_pad: whether the divisor counts padding. The default, True, is that of
            PyTorch and Flax; Keras excludes padding. Positions that `ceil_mode` reads beyond the
            padding never count.
        divisor_override: a divisor to use instead.

    Returns:
        (*batch, *output size, features), of x's dtype.

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    x = floating(x, 'x')
    spec = make_spec(
        x,
        window,
        strides,
        padding,
        dilation,
        ceil_mode,
        count_include_pad,
        divisor_override,
        symbolic=True,
    )
    if not count_include_pad and divisor_override is None and spec.is_static:
        _check_no_empty_window(spec, 'count_include_pad=False')
    return _average(x, spec, _choose('avg_pool', spec, implementation))


def lp_pool(
    x: ArrayLike,
    norm_type: float,
    window: Size,
    strides: Size | None = None,
    ceil_mode: bool = False,
    implementation: Implementation = None,
    *,
    padding: Padding = 0,
    dilation: Size = 1,
) -> Array:
    """Computes the p-norm of windows, (sum of |x|^p)^(1/p) with p = `norm_type`.

    16-bit floats are computed in float32. PyTorch uses x^p instead of |x|^p, which differs for
    negative x unless p is even (it gives NaN if p is not an integer). As in PyTorch, the derivative
    is 0 where the sum is 0, and the sum of a window that `ceil_mode` cuts short is scaled up to the
    full number of elements. The derivative with respect to an element that is 0 is 0.

    Args:
        x: (*batch, *size, features), floating point.
        norm_type: p, a finite number greater than 0.
        window, strides, padding, dilation, ceil_mode, implementation: as in `max_pool`; padding
            holds zeros.

    Returns:
        (*batch, *output size, features), of x's dtype.

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    x = floating(x, 'x')
    if isinstance(norm_type, bool) or not isinstance(norm_type, int | float | np.number):
        raise UserTypeError(f'norm_type must be a number, got {norm_type!r}')
    if not (norm_type > 0 and math.isfinite(norm_type)):
        raise UserError(
            f'norm_type must be finite and greater than 0, got {norm_type!r} '
            f'(max_pool of abs(x) is the norm of order infinity)'
        )
    spec = make_spec(x, window, strides, padding, dilation, ceil_mode)
    return _norm(x, spec, _choose('lp_pool', spec, implementation), float(norm_type))


def adaptive_max_pool(
    x: ArrayLike, output_size: int | Sequence[int | None], return_indices: bool = False
) -> Array | tuple[Array, Array]:
    """Computes the maximum over windows chosen to give an output of size `output_size`.

    Args:
        x: (*batch, *size, features), floating point or integer.
        output_size: one int per spatial axis, or None for an axis that keeps its size; or one int
            for all spatial axes of x (batch, *size, features).
        return_indices: whether to also return the row-major indices of the maxima, as in
            `max_pool`.

    Returns:
        (*batch, *output_size, features); the gradients follow `max_pool`.

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    x = checks.array(x, 'x')
    out = _check_output_size(x, output_size)
    size = x.shape[-1 - len(out) : -1]
    if window := _equal_windows(size, out):
        return max_pool(x, window, return_indices=return_indices, implementation='reshape')
    if not return_indices:
        return adaptive.maximum(x, out)
    index_dtype(math.prod(size), 'x with return_indices')
    return adaptive.maximum(x, out), adaptive.indices(x, out)


def adaptive_avg_pool(x: ArrayLike, output_size: int | Sequence[int | None]) -> Array:
    """Computes the average over windows chosen to give an output of size `output_size`.

    Args:
        x: (*batch, *size, features), floating point.
        output_size: as in `adaptive_max_pool`.

    Returns:
        (*batch, *output_size, features); 16-bit floats accumulate in float32 and are rounded once.

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    x = floating(x, 'x')
    ndim = spatial_ndim(x, output_size, 'output_size', symbolic=True)
    if _is_symbolic(x, ndim) and output_size in (1, (1,) * ndim, [1] * ndim):
        return global_avg_pool(x, ndim, keepdims=True)
    out = _check_output_size(x, output_size)
    if window := _equal_windows(x.shape[-1 - len(out) : -1], out):
        return avg_pool(x, window, implementation='reshape')
    return adaptive.average(x, out)


def global_max_pool(x: ArrayLike, spatial_ndim: int | None = None, keepdims: bool = False) -> Array:
    """Computes the maximum over all spatial axes, with the gradient of `max_pool`.

    Args:
        x: (*batch, *size, features).
        spatial_ndim: number of spatial axes; None means all axes but the first and the last.
        keepdims: whether to keep the spatial axes, with size 1.

    Returns:
        (*batch, features), or (*batch, 1, ..., features).

    Raises:
        ValueError, TypeError: invalid argument; the message names it, its value and what is valid.
    """
    x = checks.array(x, 'x')
    size = _global_window(x, spatial_ndim)
    y = _maximum(x, make_spec(x, size, None, 0, 1, False), 'reshape')
    return y if keepdims else lax.squeeze(y, range(-1 - len(size), -1))


def global_avg_pool(x: ArrayLike, spatial_ndim: int | None = None, keepdims: bool = False) -> Array:
    """Computes the average over all spatial axes, accumulating 16-bit floats in float32.

    The result is rounded once. Arguments, result and errors are those of `global_max_pool`, but x
    must be floating point.
    """
    x = floating(x, 'x')
    size = _global_window(x, spatial_ndim, symbolic=True)
    if _is_symbolic(x, len(size)):
        axes = tuple(range(-1 - len(size), -1))
        return x.mean(axes, dtype=accumulator(x.dtype), keepdims=keepdims).astype(x.dtype)
    y = avg_pool(x, size, implementation='reshape')
    return y if keepdims else lax.squeeze(y, range(-1 - len(size), -1))


def floating(x: ArrayLike, name: str) -> Array:
    """Returns `x` as a JAX array of floating-point dtype."""
    x = checks.array(x, name)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserTypeError(f'{name} must be floating point, got dtype {x.dtype}')
    return x


def _global_window(x: Array, ndim: int | None, *, symbolic: bool = False) -> tuple[int, ...]:
    axes = 1 if ndim is None else (1,) * checks.integer(ndim, 'spatial_ndim', 1)
    ndim = spatial_ndim(x, axes, 'spatial_ndim', symbolic=symbolic)
    return x.shape[-1 - ndim : -1]


def _is_symbolic(x: Array, ndim: int) -> bool:
    return not all(isinstance(n, int) for n in x.shape[-1 - ndim : -1])


def _check_output_size(x: Array, output_size: int | Sequence[int | None]) -> tuple[int, ...]:
    ndim = spatial_ndim(x, output_size, 'output_size')
    size = x.shape[-1 - ndim : -1]
    if isinstance(output_size, Sequence):
        output_size = [n if m is None else m for n, m in zip(size, output_size, strict=True)]
    return checks.per_axis(output_size, ndim, 'output_size')


def _equal_windows(size: tuple[int, ...], out: tuple[int, ...]) -> tuple[int, ...] | None:
    if any(n % m for n, m in zip(size, out, strict=True)):
        return None
    return tuple(n // m for n, m in zip(size, out, strict=True))


def _choose(op: str, spec: PoolSpec, implementation: Implementation) -> str:
    reason_against = functools.partial(pool_kernels.reason_against, spec=spec)
    return dispatch.select(op, implementation, reason_against) or pool_kernels.default(spec)


def _check_no_empty_window(spec: PoolSpec, argument: str) -> None:
    if spec.has_empty_window():
        raise UserError(
            f'{argument} needs an element of the input in every window, but window {spec.window} '
            f'with dilation {spec.dilation} and padding {spec.padding} has one that sees only '
            f'padding on input size {spec.input_size}'
        )


# Outside jit, this compiles once per spec instead of once per operation and shape.
_once_per_spec = functools.partial(jax.jit, static_argnames=('spec', 'kernel'), inline=True)


@_once_per_spec
def _maximum(x: Array, spec: PoolSpec, kernel: str) -> Array:
    with jax.named_scope(f'max_pool_{kernel}'):
        if not spec.is_static:  # JAX differentiates it: the number of windows is not known
            return pool_kernels.KERNELS[kernel].maximum(x, spec)
        return _differentiable_maximum(x, spec, kernel)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _differentiable_maximum(x: Array, spec: PoolSpec, kernel: str) -> Array:
    return pool_kernels.KERNELS[kernel].maximum(x, spec)


@_differentiable_maximum.defjvp
def _(spec: PoolSpec, kernel: str, primals: Any, tangents: Any) -> tuple[Array, Any]:
    (x,), (dx,) = primals, tangents
    run, values = pool_kernels.KERNELS[kernel], lax.stop_gradient(x)
    # The rule must compute y as the function does: an axis that vmap adds would otherwise have
    # another position, which JAX does not notice within jit.
    y = run.maximum(values, spec)
    if dx.dtype == jax.dtypes.float0:  # integer input has no tangent
        return y, np.zeros(y.shape, jax.dtypes.float0)
    codes = run.winners(values, spec)
    return jax.jvp(lambda x: _known_maximum(x, y, codes, spec, kernel), (x,), (dx,))


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _known_maximum(x: Array, y: Array, codes: Any, spec: PoolSpec, kernel: str) -> Array:
    """Returns y, the maximum of x, with its derivatives with respect to x, of every order."""
    del x, codes, spec, kernel
    return y


@_known_maximum.defjvp
def _(spec: PoolSpec, kernel: str, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x, y, codes), (dx, *_) = primals, tangents
    run = pool_kernels.KERNELS[kernel]
    # The gradient keeps `codes` in memory, instead of the comparisons that follow from them.
    pick = jax.checkpoint(lambda x: run.pick(x, codes, spec), prevent_cse=False)
    # Computes pick(dx) as a JVP: JAX 0.7 can transpose a loop only if it comes from a derivative.
    return _known_maximum(x, y, codes, spec, kernel), jax.jvp(pick, (x,), (dx,))[1]


@_once_per_spec
def _maximum_and_indices(x: Array, spec: PoolSpec, kernel: str) -> tuple[Array, Array]:
    run = pool_kernels.KERNELS[kernel]
    codes = run.winners(lax.stop_gradient(x), spec)
    indices = run.pick(numbers(x.shape, spec.axes), codes, spec)
    return _differentiable_maximum(x, spec, kernel), indices


@_once_per_spec
def _average(x: Array, spec: PoolSpec, kernel: str) -> Array:
    with jax.named_scope(f'avg_pool_{kernel}'):
        total = pool_kernels.KERNELS[kernel].total(x, spec)
        return (total / _shaped(spec.divisors(), total)).astype(x.dtype)


@functools.partial(jax.jit, static_argnames=('spec', 'kernel', 'p'), inline=True)
def _norm(x: Array, spec: PoolSpec, kernel: str, p: float) -> Array:
    with jax.named_scope(f'lp_pool_{kernel}'):
        y = x.astype(accumulator(x.dtype))
        if p % 2:
            y *= jnp.sign(y)  # |y| with derivative 0 at 0, where lax.abs has 1
        powers = lax.integer_pow(y, int(p)) if p.is_integer() else _power(y, p)
        total = pool_kernels.KERNELS[kernel].total(powers, spec)
        total *= _shaped(math.prod(spec.window) / spec.divisors(), total)
        return _power(total, 1 / p).astype(x.dtype)


def _power(x: Array, p: float) -> Array:
    """Returns x^p for x >= 0, with all derivatives at 0 defined as 0."""
    # Replacing 0 by 1 in the power keeps an infinite slope out of the derivative.
    return jnp.where(x == 0, 0, jnp.where(x == 0, 1, x) ** p)


def _shaped(factor: np.ndarray, like: Array) -> np.ndarray:
    """Casts a number, or numbers (*output_size, 1), so that it can be multiplied with `like`."""
    return np.array(factor, like.dtype, ndmin=like.ndim if np.ndim(factor) else 0)

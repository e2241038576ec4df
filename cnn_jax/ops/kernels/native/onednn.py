"""Calls oneDNN, Intel's library of deep learning primitives, through XLA's foreign functions.

This kernel needs Linux on x86-64, the extra `cpu` and a C++ compiler. docs/kernels.md describes how
it is built and how it uses threads. Source: https://github.com/uxlfoundation/oneDNN (3.2),
convolution primitive, `direct` algorithm. That algorithm computes the sums of products of the
definition, without Winograd's transforms.
"""

import ctypes
import functools
import math

import jax
import jax.numpy as jnp

from cnn_jax.ops.kernels.native import arrange, build, sharding
from cnn_jax.ops.spec import MAPS, ROLES, ConvSpec

# The maximum number of positions per row. A filter gradient adds up the products of a row one after
# the other in float32. The sums of rows are added up in parts (`Parts` in conv.cc).
MOST_IN_ROW = 1 << 16

# Products per element of the arrays. With more, on a processor that multiplies bfloat16 more slowly
# than float32, the arrays are converted.
MOST_SLOW_PRODUCTS = 64

# From this padding on, the strided filter gradient of oneDNN 3.2 is wrong in float32 for rows of 29
# to 45 outputs.
WRONG_PADDING = 15

VECTOR = 16  # float32 numbers in a vector of AVX-512

IS_NATIVE = True

# oneDNN multiplies int8 and adds up in int32, but then converts the sums to float32 and back.
SMALL_INTEGERS = 'int32'


def supports(spec: ConvSpec, op: str, platform: str) -> str | None:
    if platform != 'cpu':
        return f'it runs on CPU only, not on {platform}'
    if spec.dtype not in ('float32', 'bfloat16', 'float16') and not _is_int8(spec):
        dtype = spec.operand_dtype or spec.dtype
        return f'it supports float32, bfloat16, float16 and int8, not {dtype}'
    if _is_int8(spec) and op != 'forward':
        return f'it supports int8 in the forward map, not in {op}'
    if set(spec.input_dilation) != {1}:
        return 'it does not support input dilation'
    if not 1 <= spec.ndim <= 3:
        return f'it supports 1 to 3 spatial axes, not {spec.ndim}'
    if 0 in spec.x_shape + spec.kernel_shape + spec.y_shape:
        return 'it does not support arrays of size 0'
    if op == 'filter_grad' and (row := _row(arrange.arrange(spec, op).spec)) > MOST_IN_ROW:
        return f'its sums are exact for rows of at most {MOST_IN_ROW} positions, not {row}'
    try:
        library = build.load()
    except build.Unavailable as reason:
        return str(reason)
    if _is_int8(spec) and not library.CnnJaxHasInt8():
        return 'int8 needs a processor with VNNI: without it, oneDNN does not multiply exactly'
    known, text = describe(spec, op)
    if known and op == 'filter_grad' and text.startswith('jit:'):
        return _fault(arrange.arrange(spec, op).spec)
    return None if known else f'oneDNN: {text}'


def _fault(spec: ConvSpec) -> str | None:
    """Returns why the filter gradient of oneDNN 3.2 may be wrong with float32, or None."""
    if spec.strides[-1] > 1 and max(spec.padding[-1]) >= WRONG_PADDING:
        return f'oneDNN 3.2 is wrong for some strides with a padding of {WRONG_PADDING} or more'
    if spec.ndim == 3 and not _a_window_fits(spec):
        return 'oneDNN 3.2 is wrong in 3-D where no window fits'
    return None


@sharding.by_batch_and_space
def _call(op: str, a: jax.Array, b: jax.Array, spec: ConvSpec) -> jax.Array:
    build.load()
    first, second, out = tuple(ROLES[op])
    inner, into, back = arrange.arrange(spec, op)
    dtype = _compute_dtype(inner, op)
    result_type = jax.ShapeDtypeStruct(inner.shape(out), 'int32' if dtype == 'int8' else dtype)
    problem = build.problem(inner, op, dtype, _prefers_plain(inner, op, dtype))
    result = jax.ffi.ffi_call('cnn_jax_onednn', result_type)(
        into(first, a.astype(dtype)), into(second, b.astype(dtype)), problem=problem
    )
    return back(out, result.astype(spec.dtype))


forward, input_grad, filter_grad = (functools.partial(_call, op) for op in MAPS)


def _is_int8(spec: ConvSpec) -> bool:
    return (spec.operand_dtype, spec.dtype) == ('int8', 'int32')


def bfloat16_rate() -> float:
    """Returns how many products of bfloat16 take the time of one in float32; 0 without hardware."""
    try:
        return build.load().CnnJaxBfloat16Rate()
    except build.Unavailable:
        return 0


def _compute_dtype(spec: ConvSpec, op: str) -> jnp.dtype:
    """Returns the dtype of the operands of oneDNN.

    It is bfloat16 only if the processor has it, since emulation is 3 times slower than float32, and
    if the products, where they are slow, take less time than to convert the arrays.
    """
    if _is_int8(spec):
        return jnp.dtype('int8')
    rate = bfloat16_rate() if spec.dtype == 'bfloat16' else 0
    if rate == 0 or (rate < 1 and spec.macs > MOST_SLOW_PRODUCTS * _elements(spec)):
        return jnp.dtype('float32')
    is_depthwise = spec.is_depthwise and spec.groups > 1
    is_slow = op == 'input_grad' and is_depthwise and max(spec.strides) > 1  # 7 times
    is_wrong = op == 'filter_grad' and _has_wrong_filter_grad(spec)
    return jnp.dtype('float32' if is_wrong or is_slow else 'bfloat16')


def _has_wrong_filter_grad(spec: ConvSpec) -> bool:
    """Returns whether oneDNN's filter gradient is wrong with bfloat16.

    In 3.2, 3.6 and 3.13 it is where no window fits, for example 3x3 on 2x2 pixels. In 3.2, it is
    also wrong, or not a number, on images from 32 pixels on where windows are dilated and the
    features of a group do not fill vectors.
    """
    features = (spec.in_features // spec.groups, spec.out_features // spec.groups)
    is_dilated = spec.ndim > 1 and max(spec.dilation) > 1
    return not _a_window_fits(spec) or (is_dilated and any(n % VECTOR for n in features))


def _elements(spec: ConvSpec) -> int:
    return sum(math.prod(shape) for shape in (spec.x_shape, spec.kernel_shape, spec.y_shape))


def _a_window_fits(spec: ConvSpec) -> bool:
    """Returns whether, along each axis, the window of some output sees no padding."""
    axes = zip(
        spec.window, spec.dilation, spec.strides, spec.input_size, spec.padding, spec.output_size,
        strict=True,
    )  # fmt: skip
    for window, dilation, stride, size, (low, _), outputs in axes:
        first = max(0, -(-low // stride))  # the first output whose window begins inside
        if first >= outputs or first * stride - low + (window - 1) * dilation + 1 > size:
            return False
    return True


def _row(spec: ConvSpec) -> int:
    """Returns the number of output positions along all axes but the outermost one."""
    axes = zip(spec.input_size, spec.output_size, strict=True)
    outermost = next((i for i, axis in enumerate(axes) if axis != (1, 1)), 0)
    return math.prod(spec.output_size[outermost + 1 :])


def _prefers_plain(spec: ConvSpec, op: str, dtype: jnp.dtype) -> bool:
    return dtype == 'float32' and arrange.prefers_plain_kernel(spec, op)


@functools.lru_cache(maxsize=4096)
def describe(spec: ConvSpec, op: str) -> tuple[bool, str]:
    """Returns whether oneDNN can compute `op` of `spec`, and its implementation or why not."""
    inner = arrange.arrange(spec, op).spec
    dtype = _compute_dtype(inner, op)
    problem = build.problem(inner, op, dtype, _prefers_plain(inner, op, dtype))
    text = ctypes.create_string_buffer(256)
    pointer = problem.ctypes.data_as(ctypes.POINTER(ctypes.c_int64))
    known = build.load().CnnJaxDescribe(pointer, text, len(text))
    return bool(known), text.value.decode()


def is_reference(spec: ConvSpec, op: str) -> bool:
    """Returns whether oneDNN computes `op` of `spec`, but only by its reference implementation.

    Of gradients of long windows, such as 16x16, it was 27 to 290 times slower than XLA.
    """
    return supports(spec, op, 'cpu') is None and describe(spec, op)[1].startswith('ref')


def has_depthwise_form(spec: ConvSpec, op: str) -> bool:
    """Returns whether oneDNN has a form for depthwise kernels for `op` of `spec`.

    It has none for sequences, in 3-D, for gradients of dilated windows, and for filter gradients of
    windows wider than 3.
    """
    is_known, code = describe(spec, op)
    return is_known and '_dw:' in code


def casts(spec: ConvSpec, op: str) -> bool:
    """Returns whether `op` of bfloat16 is computed on operands converted to float32."""
    inner = arrange.arrange(spec, op).spec
    return spec.dtype == 'bfloat16' and _compute_dtype(inner, op) == 'float32'


build.load_if_built()

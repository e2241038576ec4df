"""Registers the kernels in `KERNELS`; each kernel has its own file.

A kernel is a module, or any other object, that defines at least one of

    forward(x, w, spec) -> y          x (batch, *input_size, in_features)
    input_grad(dy, w, spec) -> dx     w (*window, in_features // groups, out_features)
    filter_grad(x, dy, spec) -> dw    y (batch, *output_size, out_features)

as plain traceable JAX functions. It also defines `supports(spec, op, platform)`, which returns
None if the kernel supports the call, and otherwise the reason why not. The platforms are JAX's:
'cpu', 'cuda', 'rocm', 'tpu'. A kernel for one platform alone may name it as `PLATFORM`, so that
other machines can export programs with it. The three functions are bilinear and transposes of each
other, so a missing one is derived from one that is defined. All operands and the result have
`spec.dtype`. A kernel accumulates 16-bit floats in float32 and rounds once.

A kernel that adds up the products of the definition and nothing else sets `SMALL_INTEGERS` to
'float32'. It is then used for integers of at most 8 bits too (`integers.py`). If it sets 'int32',
it multiplies such integers itself: the operands have `spec.operand_dtype`. A kernel that multiplies
integers of any dtype narrower than the result sets `TAKES_NARROW`.

Another package adds a kernel with `KERNELS.register('mine', kernel)`. The kernel then runs
wherever it is named (`implementation='mine'`), and by default where tuning has measured it to be
the fastest.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax.ops.kernels import (
    block_diagonal,
    dot,
    fft,
    im2col,
    integers,
    interior,
    pallas,
    scan,
    shift,
    subpixel,
    winograd,
    xla,
)
from cnn_jax.ops.kernels.native import depthwise as native_depthwise
from cnn_jax.ops.kernels.native import dot as native_dot
from cnn_jax.ops.kernels.native import onednn
from cnn_jax.ops.kernels.native import winograd as native_winograd
from cnn_jax.ops.kernels.views import transpose
from cnn_jax.ops.platforms import default_platform
from cnn_jax.ops.spec import ConvSpec, accumulator
from cnn_jax.registry import Registry

KERNELS: Registry[Any] = Registry('kernel')
KERNELS.register('lax', xla)
KERNELS.register('scan', scan)
KERNELS.register('im2col', im2col)
KERNELS.register('shift', shift)
KERNELS.register('dot', dot)
KERNELS.register('winograd', winograd)
KERNELS.register('fft', fft)
KERNELS.register('interior', interior)
KERNELS.register('subpixel', subpixel)
KERNELS.register('block_diagonal', block_diagonal)
KERNELS.register('onednn', onednn)
KERNELS.register('native_winograd', native_winograd)
KERNELS.register('native_depthwise', native_depthwise)
KERNELS.register('native_dot', native_dot)
KERNELS.register('pallas', pallas)

Array = jax.Array
Bilinear = Callable[[Array, Array, ConvSpec], Array]


def reason_against(name: str, op: str, spec: ConvSpec, platform: str | None = None) -> str | None:
    """Returns None if kernel `name` can compute `op` of `spec` on `platform`, else the reason.

    If `platform` is None, JAX's default platform is used.
    """
    platform = platform or default_platform()
    kernel = KERNELS[name]
    sums = _sums_of_small_integers(kernel, op, spec)
    spec = integers.first_piece(op, spec, sums) if sums else spec.replace(operand_dtype=None)
    if not hasattr(kernel, op) and not jnp.issubdtype(spec.dtype, jnp.floating):
        return f'derives its {op} by transposition, which needs floating point, got {spec.dtype}'
    return kernel.supports(spec, op, platform)


def platform_to_check(name: str) -> str:
    """Returns the platform on which a call that names kernel `name` is checked when it is traced.

    A program may be exported or compiled for another platform than this machine's. It is JAX's
    default platform, or that of a kernel which has only one, `PLATFORM`, so that such a kernel is
    refused elsewhere when it is lowered.
    """
    return getattr(KERNELS[name], 'PLATFORM', None) or default_platform()


def is_portable(name: str) -> bool:
    """Returns whether a program that uses kernel `name` runs without this package installed."""
    return not getattr(KERNELS[name], 'IS_NATIVE', False)


def function(name: str, op: str) -> Bilinear:
    """Returns the function of kernel `name` for `op`, derived by transposition if not defined."""
    return functools.partial(_compute, KERNELS[name], op)


def _compute(kernel: Any, op: str, a: Array, b: Array, spec: ConvSpec) -> Array:
    compute = getattr(kernel, op, None) or functools.partial(_derived, kernel, op)
    if sums := _sums_of_small_integers(kernel, op, spec):
        return integers.in_pieces(compute, op, sums, a, b, spec)
    if getattr(kernel, 'TAKES_NARROW', False):
        return compute(a, b, spec)
    spec = spec.replace(operand_dtype=None)
    return compute(a.astype(spec.dtype), b.astype(spec.dtype), spec)


def _sums_of_small_integers(kernel: Any, op: str, spec: ConvSpec) -> str | None:
    """Returns the dtype of `kernel`'s sums if it computes `op` by `integers.in_pieces`."""
    sums = getattr(kernel, 'SMALL_INTEGERS', None)
    return sums if sums and integers.suits(op, spec) else None


def _derived(kernel: Any, op: str, a: Array, b: Array, spec: ConvSpec) -> Array:
    dtype, wide = spec.dtype, accumulator(spec.dtype)
    # JAX adds up cotangents in the dtype of their primals, which must be the accumulator's dtype.
    spec = spec.replace(dtype=str(wide))
    a, b = a.astype(wide), b.astype(wide)
    if hasattr(kernel, 'forward'):  # x, w -> y
        if op == 'input_grad':
            result = transpose(lambda x: kernel.forward(x, b, spec), spec.x_shape, a)
        else:
            result = transpose(lambda w: kernel.forward(a, w, spec), spec.kernel_shape, b)
    elif op == 'forward':  # from dy, w -> dx
        result = transpose(lambda dy: kernel.input_grad(dy, b, spec), spec.y_shape, a)
    else:
        result = transpose(lambda w: kernel.input_grad(b, w, spec), spec.kernel_shape, a)
    return result.astype(dtype)

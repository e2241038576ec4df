"""The kernels: one file each, registered in `KERNELS`.

A kernel is a module, or any object, that defines any of

    forward(x, w, spec) -> y          x (batch, *input_size, in_features)
    input_grad(dy, w, spec) -> dx     w (*window, in_features // groups, out_features)
    filter_grad(x, dy, spec) -> dw    y (batch, *output_size, out_features)

as plain traceable JAX, and `supports(spec, op, platform)`, which returns None or the reason why
not; the platforms are JAX's: 'cpu', 'cuda', 'rocm', 'tpu'. The three are bilinear and transposes of
each other, so a missing one is derived from one that is there. All operands and the result have
`spec.dtype`; 16-bit floats are accumulated in float32 and rounded once.

Another package adds a kernel by `KERNELS.register('mine', kernel)`. It then runs wherever it is
named (`implementation='mine'`), and by default where tuning has measured it to be the fastest.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax.ops.kernels import (
    dot,
    fft,
    im2col,
    interior,
    onednn,
    scan,
    shift,
    subpixel,
    winograd,
    xla,
)
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
KERNELS.register('onednn', onednn)

Array = jax.Array
Bilinear = Callable[[Array, Array, ConvSpec], Array]


def reason_against(name: str, op: str, spec: ConvSpec, platform: str | None = None) -> str | None:
    """None if kernel `name` can compute `op` of `spec` on `platform` (None: the one that JAX uses
    unless told otherwise), else the reason why not."""
    platform = platform or default_platform()
    kernel = KERNELS[name]
    if not hasattr(kernel, op) and not jnp.issubdtype(spec.dtype, jnp.floating):
        return f'derives its {op} by transposition, which needs floating point, got {spec.dtype}'
    return kernel.supports(spec, op, platform)


def is_portable(name: str) -> bool:
    """Whether a program that kernel `name` is part of runs where this package is not."""
    return name != 'onednn'


def function(name: str, op: str) -> Bilinear:
    """Kernel `name`'s function for `op`, derived by transposition where the kernel has none."""
    kernel = KERNELS[name]
    if hasattr(kernel, op):
        return getattr(kernel, op)
    return functools.partial(_derived, kernel, op)


def _derived(kernel: Any, op: str, a: Array, b: Array, spec: ConvSpec) -> Array:
    dtype, wide = spec.dtype, accumulator(spec.dtype)
    # JAX adds cotangents up in the dtype of what they belong to: it must be the accumulator's.
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

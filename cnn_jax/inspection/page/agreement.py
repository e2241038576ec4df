"""The same outputs of a convolution by every kernel of the package, beside their float64 value."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnn_jax.inspection.page.layers import Windows
from cnn_jax.ops import kernels
from cnn_jax.ops.convolution import conv

Position = tuple[int, int, int, int]  # example, row, column, channel


def by_kernels(
    x: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    windows: Windows,
    positions: Sequence[Position],
) -> list[dict[str, Any]]:
    """Computes outputs of a convolution by every kernel that supports it.

    Args:
        x: float32 (N, H, W, C).
        kernel: float32 (*window, C // groups, out).
        bias: float32 (out,).
        windows: of the convolution.
        positions: which outputs.

    Returns:
        One dict per position: 'float64', the sum in double precision, and 'kernels', a list of
        (name, float32 value, difference from float64). The values are decimal numbers that identify
        the binary ones.
    """
    spec = windows.spec.replace(batch=len(x))
    exact = [in_float64(x, kernel, bias, windows, position) for position in positions]
    found: list[dict[str, Any]] = [{'float64': repr(value), 'kernels': []} for value in exact]
    for name in kernels.KERNELS:
        if kernels.reason_against(name, 'forward', spec):
            continue
        y = conv(
            x,
            kernel,
            bias=bias,
            strides=windows.strides,
            padding=spec.padding,
            dilation=windows.dilation,
            groups=windows.groups,
            implementation=name,
        )
        for entry, value, position in zip(found, exact, positions, strict=True):
            mine = np.asarray(y)[position]
            entry['kernels'].append((name, str(mine), f'{float(mine) - value:.2e}'))
    return found


def in_float64(
    x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, windows: Windows, position: Position
) -> float:
    """Computes one output in float64, in which the products of float32 numbers are exact."""
    example, *place, channel = position
    per_group = kernel.shape[2]
    first = channel // (kernel.shape[3] // windows.groups) * per_group
    total = float(bias[channel])
    for tap in np.ndindex(*windows.size):
        at = [
            p * s - lo + t * d
            for p, s, lo, t, d in zip(
                place, windows.strides, windows.padding, tap, windows.dilation, strict=True
            )
        ]
        if all(0 <= a < n for a, n in zip(at, x.shape[1:3], strict=True)):
            read = x[example, at[0], at[1], first : first + per_group].astype(np.float64)
            total += float(read @ kernel[tap][:, channel].astype(np.float64))
    return total

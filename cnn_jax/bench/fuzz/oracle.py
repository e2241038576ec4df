"""The reference: convolution, product and reduction of windows in NumPy, without JAX.

All functions compute in the dtype of their operands (float64, complex128 or int64) and follow the
definition tap by tap. Convolutions are channels last:

    y[n, i, o] = sum over k, c of padded[n, strides * i + dilation * k, c] w[k, c, o]
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np


class Window(NamedTuple):
    """How a window moves over a size: one entry per axis."""

    size: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # negative crops
    dilation: tuple[int, ...]
    holes: tuple[int, ...]  # spacing of the elements of the input

    @property
    def padded_size(self) -> tuple[int, ...]:
        return tuple(
            holed(n, e) + lo + hi
            for n, e, (lo, hi) in zip(self.size, self.holes, self.padding, strict=True)
        )

    @property
    def output_size(self) -> tuple[int, ...]:
        return tuple(
            max(0, (n - holed(k, d)) // s + 1)
            for n, k, d, s in zip(
                self.padded_size, self.window, self.dilation, self.strides, strict=True
            )
        )

    def taps(self) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """Yields each tap with the slices of the padded input that it reads."""
        out = self.output_size
        for tap in itertools.product(*map(range, self.window)):
            starts = [t * d for t, d in zip(tap, self.dilation, strict=True)]
            yield (
                tap,
                tuple(
                    slice(start, start + (o - 1) * s + 1 if o else start, s)
                    for start, o, s in zip(starts, out, self.strides, strict=True)
                ),
            )


def holed(n: int, spacing: int) -> int:
    return (n - 1) * spacing + 1 if n else 0


def spans(spec: dict[str, Any]) -> list[int]:
    """Returns how many positions a window covers, per axis."""
    return [holed(k, d) for k, d in zip(spec['window'], spec['dilation'], strict=True)]


def pad(x: np.ndarray, geometry: Window, fill=0) -> np.ndarray:
    """Dilates and pads the axes of x after its first; x may have more axes than `geometry`."""
    wide, inside, kept = _extended(x.shape, geometry)
    full = np.full(wide, fill, x.dtype)
    full[inside] = x
    return full[kept]


def unpad(padded: np.ndarray, shape: tuple[int, ...], geometry: Window) -> np.ndarray:
    """Transposes `pad`."""
    wide, inside, kept = _extended(shape, geometry)
    full = np.zeros(wide, padded.dtype)
    full[kept] = padded
    return full[inside]


def _extended(shape, geometry):
    """Returns the shape before cropping, where x lies in it, and what cropping keeps."""
    rest = len(shape) - 1 - len(geometry.size)
    wide, inside, kept = [shape[0]], [slice(None)], [slice(None)]
    for n, e, (lo, hi) in zip(geometry.size, geometry.holes, geometry.padding, strict=True):
        length, before, after = holed(n, e), max(lo, 0), max(hi, 0)
        wide.append(before + length + after)
        inside.append(slice(before, before + length, e))
        kept.append(slice(max(-lo, 0), before + length + after - max(-hi, 0)))
    return (*wide, *shape[len(shape) - rest :]), tuple(inside), tuple(kept)


def conv(x: np.ndarray, w: np.ndarray, geometry: Window, groups: int) -> np.ndarray:
    """Returns y (N, *output, O) for x (N, *size, C) and w (*window, C // groups, O)."""
    padded, w = pad(x, geometry), _grouped(w, groups)
    shape = (len(x), *geometry.output_size, w.shape[-1] * groups)
    y = np.zeros((groups, int(np.prod(shape[:-1])), w.shape[-1]), x.dtype)
    for tap, view in geometry.taps():
        y += _to_groups(padded[(slice(None), *view)], groups) @ w[tap]
    return _from_groups(y, shape)


def conv_input_grad(
    dy: np.ndarray, w: np.ndarray, x_shape: tuple[int, ...], geometry: Window, groups: int
) -> np.ndarray:
    """Returns dx, the transpose of `conv` with respect to x."""
    w = _grouped(w, groups)
    padded = np.zeros((x_shape[0], *geometry.padded_size, x_shape[-1]), dy.dtype)
    rows, shape = _to_groups(dy, groups), (*dy.shape[:-1], x_shape[-1])
    for tap, view in geometry.taps():
        padded[(slice(None), *view)] += _from_groups(rows @ w[tap].transpose(0, 2, 1), shape)
    return unpad(padded, x_shape, geometry)


def conv_filter_grad(
    x: np.ndarray, dy: np.ndarray, w_shape: tuple[int, ...], geometry: Window, groups: int
) -> np.ndarray:
    """Returns dw, the transpose of `conv` with respect to w."""
    padded, rows = pad(x, geometry), _to_groups(dy, groups)
    dw = np.zeros(w_shape, x.dtype)
    for tap, view in geometry.taps():
        one = _to_groups(padded[(slice(None), *view)], groups).transpose(0, 2, 1) @ rows
        dw[tap] = one.transpose(1, 0, 2).reshape(w_shape[-2:])  # from (groups, in, out)
    return dw


def _to_groups(a, groups):
    """(..., features) -> (groups, rows, features // groups)."""
    rows = int(np.prod(a.shape[:-1]))
    return a.reshape(rows, groups, a.shape[-1] // groups).transpose(1, 0, 2)


def _from_groups(a, shape):
    return a.transpose(1, 0, 2).reshape(shape)


def _grouped(w, groups):
    """(*window, in / g, out) -> (*window, g, in / g, out / g)."""
    return np.moveaxis(w.reshape(*w.shape[:-1], groups, w.shape[-1] // groups), -2, -3)


def reduce_window(x: np.ndarray, geometry: Window, reducer: str, init) -> np.ndarray:
    """Reduces windows of all axes of x, as `lax.reduce_window` does; reducer: sum, max or min."""
    padded = pad(x[None], geometry, init)[0]
    combine = {'sum': np.add, 'max': np.maximum, 'min': np.minimum}[reducer]
    y = np.full(geometry.output_size, init, x.dtype)
    for _, view in geometry.taps():
        y = combine(y, padded[view])
    return y


def reduce_window_grad(dy: np.ndarray, x: np.ndarray, geometry: Window, reducer: str, init):
    """Returns dx: each dy at all elements of its window, or at the one that was selected."""
    padded = pad(x[None], geometry, init)[0]
    y = reduce_window(x, geometry, reducer, init)
    dx = np.zeros(padded.shape, dy.dtype)
    for _, view in geometry.taps():
        dx[view] += dy if reducer == 'sum' else np.where((padded[view] == y) & (y != init), dy, 0)
    return unpad(dx[None], (1, *x.shape), geometry)[0]


def reduce_window_tangent(dx: np.ndarray, x: np.ndarray, geometry: Window, reducer: str, init):
    """Returns the sum of dx over the elements that were selected."""
    padded, tangents = pad(x[None], geometry, init)[0], pad(dx[None], geometry)[0]
    y = reduce_window(x, geometry, reducer, init)
    dy = np.zeros(y.shape, dx.dtype)
    for _, view in geometry.taps():
        dy += np.where((padded[view] == y) & (y != init), tangents[view], 0)
    return dy

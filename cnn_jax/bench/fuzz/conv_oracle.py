"""Reference convolution and gradients: float64 NumPy, one output position at a time."""

import itertools

import numpy as np

PAD_MODES = {'zeros': 'constant', 'reflect': 'reflect', 'replicate': 'edge', 'circular': 'wrap'}


def same_padding(n, window, stride, lower=False):
    """Returns (lo, hi) by TensorFlow's rule: the output has ceil(n / stride) positions."""
    outputs = -(-n // stride)
    total = max((outputs - 1) * stride + window - n, 0)
    small = total // 2
    return (total - small, small) if lower else (small, total - small)


def conv(x, w, dy=None, *, strides, padding, dilation, input_dilation, groups, mode='zeros'):
    """Returns y for x (N, *size, C) and w (*window, C // groups, O); given dy, (y, dx, dw).

    `padding` is one (lo, hi) pair per axis; negative values crop.
    """
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    padded, source = _pad(x, padding, input_dilation, mode)
    ndim, out_features = w.ndim - 2, w.shape[-1]
    per_group = (x.shape[-1] // groups, out_features // groups)
    outputs = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, d, s in zip(padded.shape[1:-1], w.shape, dilation, strides, strict=False)
    ]
    y = np.zeros((len(x), *outputs, out_features))
    d_padded, dw = np.zeros_like(padded), np.zeros_like(w)
    for at in itertools.product(*map(range, outputs)):
        window = tuple(
            slice(i * s, i * s + (k - 1) * d + 1, d)
            for i, s, k, d in zip(at, strides, w.shape[:ndim], dilation, strict=True)
        )
        for g in range(groups):
            c = slice(g * per_group[0], (g + 1) * per_group[0])
            o = slice(g * per_group[1], (g + 1) * per_group[1])
            view = padded[(slice(None), *window, c)]
            axes = list(range(1, ndim + 2))
            y[(slice(None), *at, o)] = np.tensordot(view, w[..., o], (axes, list(range(ndim + 1))))
            if dy is not None:
                here = np.asarray(dy, np.float64)[(slice(None), *at, o)]
                dw[..., o] += np.tensordot(view, here, (0, 0))
                d_padded[(slice(None), *window, c)] += np.tensordot(here, w[..., o], (1, ndim + 1))
    if dy is None:
        return y
    dx = np.zeros(x.size + 1)  # the last element collects the gradients of padding and holes
    np.add.at(dx, source.reshape(-1), d_padded.reshape(-1))
    return y, dx[:-1].reshape(x.shape), dw


def _pad(x, padding, input_dilation, mode):
    """Returns the padded, dilated input and each element's index into x.reshape(-1)."""
    source = np.arange(x.size).reshape(x.shape)
    holed = [(n - 1) * e + 1 for n, e in zip(x.shape[1:-1], input_dilation, strict=True)]
    spread = np.full((len(x), *holed, x.shape[-1]), x.size)
    spread[(slice(None), *(slice(None, None, e) for e in input_dilation))] = source
    widths = [(0, 0), *((max(lo, 0), max(hi, 0)) for lo, hi in padding), (0, 0)]
    extra = {'constant_values': x.size} if mode == 'zeros' else {}
    spread = np.pad(spread, widths, PAD_MODES[mode], **extra)
    for axis, (lo, hi) in enumerate(padding, 1):
        kept = range(max(-lo, 0), spread.shape[axis] - max(-hi, 0))
        spread = np.take(spread, kept, axis)
    return np.append(x.reshape(-1), 0.0)[spread], spread


def conv_transpose(x, w, *, strides, crops, dilation, groups):
    """Computes full[s i + d t] += x[i] w[t], then crops (lo, hi); negative values add zeros."""
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    ndim = w.ndim - 2
    i, o = w.shape[-2], w.shape[-1] // groups
    full = [
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(x.shape[1:-1], strides, w.shape, dilation, strict=False)
    ]
    y = np.zeros((len(x), *full, w.shape[-1]))
    for at in np.ndindex(*x.shape[1:-1]):
        for tap in np.ndindex(*w.shape[:ndim]):
            to = tuple(a * s + t * d for a, s, t, d in zip(at, strides, tap, dilation, strict=True))
            for g in range(groups):
                part = x[(slice(None), *at, slice(g * i, (g + 1) * i))]
                y[(slice(None), *to, slice(g * o, (g + 1) * o))] += (
                    part @ w[(*tap, slice(None), slice(g * o, (g + 1) * o))]
                )
    for axis, (lo, hi) in enumerate(crops, 1):
        y = np.take(y, range(max(lo, 0), y.shape[axis] - max(hi, 0)), axis)
        widths = [(0, 0)] * y.ndim
        widths[axis] = (max(-lo, 0), max(-hi, 0))
        y = np.pad(y, widths)
    return y

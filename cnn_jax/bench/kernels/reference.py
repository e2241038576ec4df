"""Computes convolutions in float64 NumPy, as the reference for every kernel.

The code follows the definition, tap by tap, and does not use XLA. For large problems it computes
only a part of the result: a few examples of the batch or, for the filter gradient (which sums over
the batch), a few output channels or groups.
"""

import itertools
import math
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from cnn_jax.errors import UserError
from cnn_jax.ops.spec import ConvSpec


def forward(x, w, spec: ConvSpec) -> np.ndarray:
    """Returns y (`spec.y_shape`) for x (`spec.x_shape`) and w (`spec.kernel_shape`)."""
    x, w = _pad(_double(x), spec), _grouped(_double(w), spec)
    y = np.zeros((spec.groups, _rows(spec), spec.out_features // spec.groups))
    for tap, view in _views(spec):
        y += _to_groups(x[view], spec) @ w[tap]
    return _from_groups(y, spec.y_shape)


def input_grad(dy, w, spec: ConvSpec) -> np.ndarray:
    """Returns dx (`spec.x_shape`), the transpose of `forward` with respect to x."""
    dy, w = _to_groups(_double(dy), spec), _grouped(_double(w), spec)
    padded = np.zeros((spec.batch, *spec.padded_size, spec.in_features))
    shape = (spec.batch, *spec.output_size, spec.in_features)
    for tap, view in _views(spec):
        padded[view] += _from_groups(dy @ w[tap].transpose(0, 2, 1), shape)
    return padded[_inside(spec)]


def filter_grad(x, dy, spec: ConvSpec) -> np.ndarray:
    """Returns dw (`spec.kernel_shape`), the transpose of `forward` with respect to w."""
    x, dy = _pad(_double(x), spec), _to_groups(_double(dy), spec)
    dw = np.zeros((*spec.window, *spec.kernel_shape[-2:]))
    for tap, view in _views(spec):
        one = _to_groups(x[view], spec).transpose(0, 2, 1) @ dy  # (groups, in, out)
        dw[tap] = one.transpose(1, 0, 2).reshape(spec.kernel_shape[-2:])
    return dw


MAPS = {'forward': forward, 'input_grad': input_grad, 'filter_grad': filter_grad}


def part(op: str, spec: ConvSpec, a, b, budget: float):
    """Selects a part of the result of map `op` that costs about `budget` multiply-adds.

    Returns:
        (spec, a, b, cut, note): the smaller problem and its operands; `cut`, which takes the same
        part of a full result; and a note on what is checked ('' if everything is).
    """
    if spec.macs <= budget or min(np.shape(a)) == 0:
        return spec, a, b, lambda r: r, ''
    share = budget / spec.macs
    if op != 'filter_grad':
        batch = max(1, int(spec.batch * share))
        smaller = spec.replace(batch=batch)
        return smaller, a[:batch], b, lambda r: r[:batch], f'{batch} of {spec.batch} examples'
    if spec.groups == 1:
        out = max(1, int(spec.out_features * share))
        smaller = spec.replace(out_features=out)
        note = f'{out} of {spec.out_features} channels'
        return smaller, a, b[..., :out], lambda r: r[..., :out], note
    groups = max(1, int(spec.groups * share))
    features, out = (n // spec.groups * groups for n in (spec.in_features, spec.out_features))
    smaller = spec.replace(groups=groups, in_features=features, out_features=out)
    note = f'{groups} of {spec.groups} groups'
    return smaller, a[..., :features], b[..., :out], lambda r: r[..., :out], note


def relative_error(result, expected) -> float:
    """Returns ||result - expected|| / ||expected||, or infinity if `result` is not finite."""
    result, expected = _double(result), _double(expected)
    if result.shape != expected.shape:
        raise UserError(f'result has shape {result.shape}, expected {expected.shape}')
    if not np.isfinite(result).all():
        return math.inf
    scale = float(np.linalg.norm(expected.ravel()))
    return float(np.linalg.norm((result - expected).ravel())) / (scale or 1.0)


def tolerance(dtype: str, spec: ConvSpec, op: str) -> float:
    """Returns the relative error that rounding can explain.

    It allows for rounding the result once and for accumulating K products in float32 (float64 for
    float64). The second error grows as sqrt(K) (Higham 2002, "Accuracy and stability of numerical
    algorithms", section 2.8). A margin covers Winograd's transforms. Integers are exact.
    """
    if jnp.issubdtype(dtype, jnp.integer):
        return 0.0
    taps = math.prod(spec.window)
    terms = {
        'forward': taps * spec.in_features // spec.groups,
        'input_grad': taps * spec.out_features // spec.groups,
        'filter_grad': _rows(spec),
    }[op]
    eps = float(jnp.finfo(dtype).eps)
    accumulated = min(eps, float(jnp.finfo('float32').eps))
    return eps + accumulated * (32 + math.sqrt(terms))


def _double(a) -> np.ndarray:
    return np.asarray(a).astype(np.float64)


def _rows(spec: ConvSpec) -> int:
    return spec.batch * math.prod(spec.output_size)


def _inside(spec: ConvSpec):
    """Returns the slices of the padded, dilated input that hold the elements of x."""
    return (
        slice(None),
        *(
            slice(lo, lo + (n - 1) * e + 1 if n else lo, e)
            for n, e, (lo, _) in zip(
                spec.input_size, spec.input_dilation, spec.padding, strict=True
            )
        ),
    )


def _pad(x, spec):
    padded = np.zeros((spec.batch, *spec.padded_size, spec.in_features))
    padded[_inside(spec)] = x
    return padded


def _views(spec: ConvSpec) -> Iterator[tuple]:
    """Yields each tap of the window with the slices of the padded input that it reads."""
    for tap in itertools.product(*map(range, spec.window)):
        starts = [t * d for t, d in zip(tap, spec.dilation, strict=True)]
        yield (
            tap,
            (
                slice(None),
                *(
                    slice(start, start + (o - 1) * s + 1, s)
                    for start, o, s in zip(starts, spec.output_size, spec.strides, strict=True)
                ),
            ),
        )


def _to_groups(a, spec):
    """(..., features) -> (groups, rows, features // groups)."""
    rows = np.ascontiguousarray(a).reshape(-1, spec.groups, a.shape[-1] // spec.groups)
    return rows.transpose(1, 0, 2)


def _from_groups(a, shape):
    return a.transpose(1, 0, 2).reshape(shape)


def _grouped(w, spec):
    """(*window, in / g, out) -> (*window, g, in / g, out / g)."""
    per_group = spec.out_features // spec.groups
    w = w.reshape(*w.shape[:-1], spec.groups, per_group)
    return np.moveaxis(w, -2, -3)

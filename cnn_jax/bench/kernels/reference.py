"""Computes convolutions in float64 NumPy, as the reference for every kernel.

The code follows the definition, tap by tap, and does not use XLA. For large problems it computes
only a part of the result: a few examples of the batch or, for the filter gradient (which sums over
the batch), a few output channels or groups.
"""

import math

import jax.numpy as jnp
import numpy as np

from cnn_jax.bench.fuzz import oracle
from cnn_jax.errors import UserError
from cnn_jax.ops.spec import ConvSpec


def forward(x, w, spec: ConvSpec) -> np.ndarray:
    """Returns y (`spec.y_shape`) for x (`spec.x_shape`) and w (`spec.kernel_shape`)."""
    return oracle.conv(_double(x), _double(w), _window(spec), spec.groups)


def input_grad(dy, w, spec: ConvSpec) -> np.ndarray:
    """Returns dx (`spec.x_shape`), the transpose of `forward` with respect to x."""
    shape = spec.x_shape
    return oracle.conv_input_grad(_double(dy), _double(w), shape, _window(spec), spec.groups)


def filter_grad(x, dy, spec: ConvSpec) -> np.ndarray:
    """Returns dw (`spec.kernel_shape`), the transpose of `forward` with respect to w."""
    shape = spec.kernel_shape
    return oracle.conv_filter_grad(_double(x), _double(dy), shape, _window(spec), spec.groups)


def _window(spec: ConvSpec) -> oracle.Window:
    return oracle.Window(
        spec.input_size,
        spec.window,
        spec.strides,
        spec.padding,
        spec.dilation,
        spec.input_dilation,
    )


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

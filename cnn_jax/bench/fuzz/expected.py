"""From a case to its results in NumPy, and to the errors that rounding explains."""

from typing import NamedTuple

import numpy as np

from . import dtypes, views
from .cases import OPERATIONS, Case, stored

CONSTANT = 4  # of the probabilistic bound u sqrt(n) of a sum (Higham & Mary 2019, theorem 2.4)


class Result(NamedTuple):
    value: np.ndarray  # float64, complex128 or int64
    allowed: np.ndarray  # the largest error, elementwise
    dtype: str


def results(case: Case) -> list[Result]:
    """Returns what the program of a case must compute."""
    arrays = [
        dtypes.exactly(views.of_numpy(x, o['views']))
        for x, o in zip(stored(case), case['operands'], strict=True)
    ]
    is_int = dtypes.kind(case['dtype']) == 'int'
    with np.errstate(all='ignore'):
        values = _whole(case, arrays)
        bounds = values if is_int else _whole(case, [np.abs(x) for x in arrays])
    count = OPERATIONS[case['op']].OPERANDS
    scale = np.prod([np.abs(x).max(initial=0) for x in arrays[:count]])  # of one term of a sum
    found = []
    for i, (value, bound) in enumerate(zip(values, bounds, strict=True)):
        out = result_dtype(case, i)
        wrap = (lambda x, out=out: dtypes.wrapped(x, out)) if is_int else (lambda x: x)
        value = wrap(_post(case, wrap(value)))
        found.append(Result(value, _allowed(case, value, _moved(case, bound), scale, out), out))
    return found


def result_dtype(case: Case, index: int) -> str:
    """Returns the dtype of a result: y, or a gradient or tangent."""
    is_gradient = case['derivative'] in ('vjp', 'remat') and index > 0
    return case['dtype'] if is_gradient else case['out'] or case['dtype']


def _whole(case, arrays):
    count, loop = OPERATIONS[case['op']].OPERANDS, case['loop']
    if loop == 'none':
        return _leaf(case, arrays)
    mapped = [o['mapped'] for o in case['operands']]
    each = []
    for i in range(case['length']):
        pairs = zip(arrays, mapped, strict=True)
        each.append(_leaf(case, [x if a is None else np.take(x, i, a) for x, a in pairs]))
    stacked = [np.stack(some) for some in zip(*each, strict=True)]
    if case['derivative_first'] or case['derivative'] in ('value', 'jvp'):
        return [s.sum(0) for s in stacked] if loop == 'sum' else stacked
    y = stacked[0].sum(0) if loop == 'sum' else stacked[0]
    grads = [
        s.sum(0) if a is None else np.moveaxis(s, 0, a)
        for s, a in zip(stacked[1:], mapped[:count], strict=True)
    ]
    return [y, *grads]


def _leaf(case, arrays):
    operation, spec, kind = OPERATIONS[case['op']], case['spec'], case['derivative']
    count = operation.OPERANDS
    own = arrays[:count]
    y = _in_range(case, operation.forward(spec, *own))
    if kind == 'value':
        return [y]
    if kind in ('vjp', 'remat'):
        return [y, *operation.pullback(spec, own, arrays[count])]
    return [y, operation.pushforward(spec, own, arrays[count:])]


def _in_range(case, value):
    """Clips the neutral elements of integer maxima."""
    if case['op'] == 'window' and value.dtype.kind == 'i' and case['spec']['reducer'] != 'sum':
        return value.clip(*dtypes.limits(case['dtype']))
    return value


def _allowed(case, value, bound, scale, out):
    """Returns 0 where every partial sum is representable, otherwise a bound of rounding errors.

    JAX does not promise a wider accumulator for 16-bit floats, so the bound supposes none. A case
    that is 'strict' (one of our operations) accumulates them in float32 and rounds once.
    """
    if dtypes.kind(out) == 'int' or _selects(case):
        return np.zeros(bound.shape)
    terms = max(int(np.prod(o['shape'])) for o in case['operands'])
    if case.get('strict'):
        own = sums = dtypes.roundoff(out)
        if case['loop'] == 'none' or _sums_within(case):
            sums = min(own, dtypes.roundoff('float32'))
        is_added = (  # rounded before and after
            case['derivative'] == 'jvp' or case['spec'].get('bias')
            or case['op'] == 'our_conv' and case['spec']['mode'] != 'zeros'
        )  # fmt: skip
        rounded = 1.01 * own * (3 * np.abs(bound) if is_added else np.abs(value))
        largest = max(np.abs(bound).max(initial=0), scale)  # a transform mixes the elements
        return rounded + 2 * CONSTANT * sums * np.sqrt(terms + 1) * largest
    narrowest = max(map(dtypes.roundoff, (out, case['dtype'])))
    # complex products add two terms per part
    exact = np.abs(bound).max(initial=0) * 4 <= 1 / narrowest
    if case['values'] != 'normal' and exact and not _is_complex(case):
        return np.zeros(bound.shape)
    relative = CONSTANT * narrowest * np.sqrt(terms + 1) * np.abs(bound)
    return relative + dtypes.smallest_normal(out)  # what is below may be flushed to zero


def _sums_within(case):
    """Returns whether the sums are the operation's own, and no loop adds up results."""
    return case['derivative_first'] and case['loop'] != 'sum'


def _selects(case):
    return (
        case['op'] == 'window' and case['spec']['reducer'] != 'sum'
        and case['derivative'] == 'value' and case['loop'] != 'sum'
    )  # fmt: skip


def _is_complex(case):
    return dtypes.kind(case['dtype']) == 'complex'


def _post(case, y):
    kind = case['post']
    if kind in ('relu', 'negate', 'double'):
        return {'relu': lambda: y.clip(0), 'negate': lambda: -y, 'double': lambda: y + y}[kind]()
    return _moved(case, y)


def _moved(case, y):
    if case['post'] == 'double':
        return y + y
    if case['post'] == 'reverse':
        return np.flip(y)
    return y.T if case['post'] == 'transpose' else y


def difference(found: np.ndarray, wanted: Result) -> str:
    """Returns '' if a result is right, otherwise what is wrong with it."""
    if found.shape != wanted.value.shape or found.dtype.name != wanted.dtype:
        return f'{found.dtype}{found.shape} instead of {wanted.dtype}{wanted.value.shape}'
    actual = dtypes.exactly(found)
    with np.errstate(all='ignore'):
        same = actual == wanted.value
        close = np.abs(actual - wanted.value) <= wanted.allowed
        overflow = np.abs(wanted.value) + wanted.allowed > 0.9 * _largest(wanted.dtype)
        wrong = ~(same | close | overflow)
    if not wrong.any():
        return ''
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f'{int(wrong.sum())} of {wrong.size} elements are wrong: at {at} '
        f'{actual[at]} instead of {wanted.value[at]} (allowed error {wanted.allowed[at]:.2g})'
    )


def _largest(name):
    return np.inf if dtypes.kind(name) == 'int' else dtypes.largest(name)

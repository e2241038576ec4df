"""Tests of numerics: long sums, infinities, constants of a program, strict promotion."""

import contextlib
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.bench.fuzz import conv_oracle as oracle
from cnn_jax.ops import kernels
from cnn_jax.ops.spec import ConvSpec
from tests.compilation import x64
from tests.ops.tolerance import FACTOR, assert_close

KERNELS = tuple(name for name in kernels.KERNELS if name != 'pallas')  # test_pallas.py
OPERANDS = {
    'forward': ('x_shape', 'kernel_shape'),
    'input_grad': ('y_shape', 'kernel_shape'),
    'filter_grad': ('x_shape', 'y_shape'),
}
OPS = tuple(OPERANDS)


def make_spec(x, w, strides=1, padding=0, dilation=1, groups=1, input_dilation=1):
    """Returns the spec for x (N, *size, C) and w (*window, C // groups, O).

    The other arguments, except `groups`, are one int, or one value per axis.
    """
    n = len(w) - 2
    each = lambda value: value if isinstance(value, tuple) else (value,) * n  # noqa: E731
    pairs = tuple(p if isinstance(p, tuple) else (p, p) for p in each(padding))
    return ConvSpec(
        x[0], x[1:-1], x[-1], w[:n], w[-1], each(strides), pairs, each(input_dilation),
        each(dilation), groups, 'float32',
    )  # fmt: skip


SPECS = {
    'padded': make_spec((2, 5, 6, 3), (3, 3, 3, 4), 1, 1),
    'strided': make_spec((2, 9, 8, 3), (3, 3, 3, 2), (2, 3), ((1, 0), (2, 1))),
    'a rest that no window sees': make_spec((2, 10, 9, 2), (2, 3, 2, 3), (3, 4)),
    'dilated and strided': make_spec((1, 11, 12, 2), (3, 3, 2, 3), (2, 3), ((1, 2), (3, 0)), 2),
    'input dilated': make_spec((2, 4, 5, 2), (2, 3, 2, 3), 3, 0, input_dilation=2),
    'padding beyond the window': make_spec((1, 3, 4, 2), (2, 2, 2, 3), 1, ((3, 4), (2, 3))),
    'grouped': make_spec((2, 6, 5, 4), (3, 3, 2, 6), 1, 1, 1, 2),
    'depthwise in blocks of rows': make_spec((2, 37, 3, 3), (3, 2, 1, 3), 1, 1, 1, 3),
    'depthwise strided': make_spec((1, 53, 4, 3), (2, 3, 1, 3), (3, 1), ((1, 0), (0, 2)), 1, 3),
    'depthwise with a multiplier': make_spec((2, 6, 5, 3), (3, 3, 1, 6), 1, 1, 1, 3),
    'depthwise 1-D': make_spec((19, 7, 2), (3, 1, 2), 1, 1, 1, 2),
    'folded': make_spec((2, 40, 1), (16, 1, 8), 4, 6),
    'folded with a rest': make_spec((2, 43, 2), (8, 2, 4), 4, ((3, 0),)),
    'stride but not folded': make_spec((2, 24, 1), (14, 1, 8), 4, 6),
    'patches': make_spec((2, 9, 8, 3), (4, 4, 3, 8), 4),
    'volume': make_spec((1, 4, 5, 3, 2), (2, 3, 2, 2, 3), (1, 2, 1), 1),
    'many features': make_spec((2, 6, 5, 16), (3, 2, 16, 17), 1, 1),
    'many features strided': make_spec((2, 7, 8, 16), (3, 2, 16, 16), 2, 1),
    'pointwise': make_spec((2, 4, 5, 16), (1, 1, 16, 6)),
    'pointwise to few': make_spec((2, 4, 5, 3), (1, 1, 3, 4)),
    'batch inside': make_spec((8, 2, 256), (2, 256, 256), 1, 1),
}


def reference(op, a, b, spec):
    """Computes `op` by its definition, in float64."""
    arguments = {
        name: getattr(spec, name)
        for name in ('strides', 'padding', 'dilation', 'input_dilation', 'groups')
    }
    if op == 'forward':
        return oracle.conv(a, b, **arguments)
    if op == 'input_grad':
        return oracle.conv(np.zeros(spec.x_shape), b, a, **arguments)[1]
    return oracle.conv(a, np.zeros(spec.kernel_shape), b, **arguments)[2]


def supported(name, op, spec):
    return kernels.reason_against(name, op, spec, 'cpu') is None


def compute(name, op, spec):
    function = kernels.function(name, op)
    return lambda a, b: function(a, b, spec)


def shapes(op, spec):
    return [getattr(spec, which) for which in OPERANDS[op]]


def reduction(spec):
    """Returns the length of the longest sum in the three maps."""
    window = int(np.prod(spec.window))
    per_group = max(spec.in_features, spec.out_features) // spec.groups
    return max(window * per_group, spec.batch * int(np.prod(spec.output_size)))


# Long sums

LONG = {
    'one feature': make_spec((1, 2**19 + 1, 1), (2, 1, 1)),
    'more features': make_spec((4, 2**14, 4), (3, 4, 32), 1, ((2, 0),)),
    'raw audio': make_spec((2, 2**17, 1), (16, 1, 8), 4, 6),
    'image': make_spec((2, 384, 385, 3), (3, 3, 3, 8), 1, 1),
    'strided image': make_spec((2, 384, 385, 4), (3, 2, 4, 9), (2, 1), ((3, 1), (0, 2)), (1, 3)),
    'many images': make_spec((2000, 9, 8, 2), (3, 3, 2, 4), 1, 1),
    'one row': make_spec((1, 1, 2**17, 2), (1, 3, 2, 4)),
    'grouped': make_spec((1, 512, 256, 4), (2, 2, 2, 6), 1, 0, 1, 2),
    'depthwise': make_spec((1, 512, 256, 8), (3, 3, 1, 8), 1, 1, 1, 8),
    'volume': make_spec((1, 33, 64, 64, 2), (2, 3, 2, 2, 3), 1, ((1, 5), (0, 0), (1, 1))),
    'large kernel': make_spec((2, 128, 128, 65), (4, 4, 65, 64), 1, 1),
    'large kernel, many images': make_spec((7, 72, 71, 260), (1, 1, 260, 256)),
}


def filter_gradient(x, dy, spec):
    """Computes the filter gradient in float64, one tap at a time."""
    x = np.pad(x.astype(np.float64), [(0, 0), *spec.padding, (0, 0)])
    x = x.reshape(*x.shape[:-1], spec.groups, -1)
    dy = dy.astype(np.float64).reshape(*dy.shape[:-1], spec.groups, -1)
    dw = np.empty((*spec.window, *spec.kernel_shape[-2:]))
    for tap in np.ndindex(*spec.window):
        views = tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(tap, spec.dilation, spec.output_size, spec.strides, strict=True)
        )
        for g in range(spec.groups):
            view, here = x[(slice(None), *views, g)], dy[..., g, :]
            part = view.reshape(-1, view.shape[-1]).T @ here.reshape(-1, here.shape[-1])
            dw[(*tap, slice(None), slice(g * part.shape[1], (g + 1) * part.shape[1]))] = part
    return dw


@pytest.mark.parametrize('case', LONG)
def test_filter_gradients_of_many_positions(case):
    """Checks that oneDNN's sums over many positions are as accurate as over a few thousand.

    With a single running sum, most errors here would be 7e-6 to 6e-5.
    """
    spec = LONG[case]
    if not supported('onednn', 'filter_grad', spec):
        pytest.skip(kernels.reason_against('onednn', 'filter_grad', spec, 'cpu'))
    rng = np.random.default_rng(0)
    x, dy = (rng.uniform(size=shape).astype(np.float32) for shape in shapes('filter_grad', spec))
    expected = filter_gradient(x, dy, spec)
    actual = jax.jit(compute('onednn', 'filter_grad', spec))(x, dy)
    terms = 2**15 if 'large kernel' in case else 2**12
    error = np.abs(np.asarray(actual, np.float64) - expected).max() / expected.max()
    assert actual.shape == expected.shape and error <= 2**-24 * np.sqrt(terms)


def test_a_sum_of_ones_beyond_the_integers_of_float32():
    positions = 2**24 + 2**10
    spec = make_spec((1, positions, 1), (1, 1, 1))
    x, dy = (np.ones(shape, np.float32) for shape in shapes('filter_grad', spec))
    for name in ('onednn', 'lax'):
        if supported(name, 'filter_grad', spec):
            assert compute(name, 'filter_grad', spec)(x, dy).item() == positions


def test_rows_too_long_to_be_summed_are_refused():
    spec = make_spec((1, 2, 2**16 + 2, 1), (1, 2, 1, 1))
    assert 'rows' in kernels.reason_against('onednn', 'filter_grad', spec, 'cpu')
    for allowed in (
        spec.replace(input_size=(2, 2**16 + 1)),
        spec.replace(input_size=(1, 2**20)),
        spec.replace(window=(1, 1)),  # its positions become one sequence
    ):
        assert 'rows' not in str(kernels.reason_against('onednn', 'filter_grad', allowed, 'cpu'))


# Infinities
#
# A non-finite value must reach every result whose sum includes a product with it. A value in the
# kernel, or in dy of a filter gradient, may also reach results in which it multiplies a zero of the
# padding, or a zero between the elements of a dilated input. A value in x, or in dy of an input
# gradient, must reach no other result.
#
# There are two exceptions: kernels that compute with sums of operands or merge groups, and XLA's
# filter gradient of a grouped convolution on CPUs, which multiplies dy by the inputs of all groups
# and by zero.

SPREADING = (*FACTOR, 'block_diagonal')
# Cases that onednn rearranges, or nearly does.
REARRANGED = ('folded with a rest', 'stride but not folded', 'patches', 'batch inside')
BY_XLA = ('lax', 'interior', 'subpixel')  # XLA computes their filter gradients


@functools.cache
def reached(op, spec, which, at):
    """Returns two masks of the results that element `at` of operand `which` must or may reach.

    It must reach the results in which an element of the other operand multiplies it. It may reach
    those in which either such an element or a zero of padding multiplies it.
    """
    operands = [np.ones(shape) for shape in shapes(op, spec)]
    operands[which] = np.zeros_like(operands[which])
    operands[which][at] = 1
    must = reference(op, *operands, spec) > 0
    if which == 0:
        return must, must
    group = at[-1] // (spec.out_features // spec.groups)
    features = spec.in_features // spec.groups
    may = np.zeros_like(must)
    if op == 'forward':  # w
        may[..., at[-1]] = True
    elif op == 'input_grad':  # w
        may[..., group * features + at[-2]] = True
    else:  # dy
        may[..., at[-1]] = True
    return must, may


def elements(shape):
    """Returns the indices of the first, the last and a middle element."""
    first, last = tuple(0 for _ in shape), tuple(n - 1 for n in shape)
    middle = tuple(n // 2 for n in shape)
    return sorted({first, last, middle})


@pytest.mark.parametrize('name', [name for name in KERNELS if name not in SPREADING])
@pytest.mark.parametrize('op', OPS)
def test_infinities_stay_in_their_windows(op, name):
    rng = np.random.default_rng(0)
    checked = 0
    for case, spec in SPECS.items():
        if case in REARRANGED and name != 'onednn' or not supported(name, op, spec):
            continue
        run = jax.jit(compute(name, op, spec))
        # all positive, so that the sign of an infinity is known
        operands = [rng.uniform(0.5, 1.5, shape).astype(np.float32) for shape in shapes(op, spec)]
        values = (np.inf,) if case == 'batch inside' else (np.inf, -np.inf, np.nan)
        for which in (0, 1):
            for at, value in itertools.product(elements(operands[which].shape), values):
                must, may = reached(op, spec, which, at)
                if name in BY_XLA and op == 'filter_grad' and which == 1 and spec.groups > 1:
                    may = np.ones_like(may)
                changed = list(operands)
                changed[which] = operands[which].copy()
                changed[which][at] = value
                result = np.asarray(run(*changed))
                place = f'{case}: {value} at {at} of operand {which}'
                assert np.isfinite(result[~may]).all(), place
                np.testing.assert_array_equal(
                    result[must], np.full(must.sum(), value, np.float32), place
                )
                checked += 1
    assert checked


# Constants of the program

CONSTANT_SPECS = {
    'sequence': make_spec((2, 5, 3), (3, 3, 4), 1, 1),
    'few features': make_spec((2, 5, 5, 3), (3, 3, 3, 4), 1, 1),
    'pointwise': make_spec((2, 5, 5, 16), (1, 1, 16, 8)),
    'pointwise to few': make_spec((2, 5, 5, 4), (1, 1, 4, 3)),
    'many features': make_spec((2, 6, 5, 16), (2, 2, 16, 8), 1, 1),
    'depthwise': make_spec((2, 7, 5, 3), (3, 3, 1, 3), 2, 1, 1, 3),
}


@pytest.mark.parametrize('constant', [(0,), (1,), (0, 1)], ids=['first', 'second', 'both'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16', 'float64'])
@pytest.mark.parametrize('name', KERNELS)
def test_constants_of_the_program(name, dtype, constant):
    rng = np.random.default_rng(0)
    with x64(dtype == 'float64'):
        tasks = []
        every = dtype == 'bfloat16' or not kernels.is_portable(name)
        cases = list(CONSTANT_SPECS) if every else ['sequence', 'pointwise']
        if name == 'winograd':  # in 2-D, XLA takes seconds to fold its constants
            cases = ['sequence']
        if name == 'block_diagonal':
            cases = ['depthwise']
        for case in cases:
            spec = CONSTANT_SPECS[case].replace(dtype=dtype)
            for op in OPS:
                if supported(name, op, spec):
                    operands = [jnp.asarray(rng.normal(size=s), dtype) for s in shapes(op, spec)]
                    tasks.append((op, spec, operands))

        def run(arguments):
            results = []
            for (op, spec, operands), given in zip(tasks, arguments, strict=True):
                operands = [given.get(i, operand) for i, operand in enumerate(operands)]
                results.append(compute(name, op, spec)(*operands))
            return results

        given = [{i: o for i, o in enumerate(t[2]) if i not in constant} for t in tasks]
        for (op, spec, operands), actual in zip(tasks, jax.jit(run)(given), strict=True):
            expected = reference(op, *operands, spec)
            message = f'{op} of {name} in {dtype}, {spec}'
            assert actual.dtype == dtype
            assert_close(actual, expected, reduction(spec), FACTOR.get(name, 1.0), message)
        assert tasks or (dtype == 'float64' and not kernels.is_portable(name))


# Strict promotion, 64-bit types, no jit


@contextlib.contextmanager
def strict():
    with jax.numpy_rank_promotion('raise'), jax.numpy_dtype_promotion('strict'):
        yield


@pytest.mark.parametrize('name', KERNELS)
def test_strict_promotion(name):
    cases = ('padded', 'strided', 'input dilated', 'grouped', 'depthwise in blocks of rows',
             'folded', 'many features strided', 'pointwise', 'pointwise to few')  # fmt: skip
    dtypes = (('bfloat16', False), ('float32', True), ('int32', True))  # and whether x64 is enabled
    for case, (dtype, wide), op in itertools.product(cases, dtypes, OPS):
        spec = SPECS[case].replace(dtype=dtype)
        if supported(name, op, spec):
            operands = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes(op, spec)]
            with x64(wide), strict():
                result = jax.eval_shape(compute(name, op, spec), *operands)
            assert result.dtype == dtype


@pytest.mark.parametrize('name', KERNELS)
def test_without_jit(name):
    rng = np.random.default_rng(0)
    dense, depthwise = (
        make_spec((1, 4, 3, 2), (3, 3, 2 // groups, 2), 1, 1, groups=groups) for groups in (1, 2)
    )
    spec = next(s for s in (dense, depthwise, SPECS['pointwise']) if supported(name, OPS[0], s))
    for op in OPS:
        operands = [rng.normal(size=shape).astype(np.float32) for shape in shapes(op, spec)]
        with x64(), strict(), jax.disable_jit():
            result = compute(name, op, spec)(*map(jnp.asarray, operands))
        expected = reference(op, *operands, spec)
        assert_close(result, expected, reduction(spec), FACTOR.get(name, 1.0), f'{op} of {name}')

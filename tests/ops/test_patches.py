"""Tests of pad, unfold and fold: by definition, as adjoints, and against PyTorch."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax.ops import patches
from tests.compilation import x64
from tests.ops.pool_cases import everything
from tests.ops.tolerance import assert_close


def source(n, lo, hi, mode):
    """Returns, for each padded position, the input position that it copies, or None for zero."""
    at = range(-lo, n + hi)
    if mode == 'circular':
        return [i % n for i in at]
    if mode == 'replicate':
        return [min(max(i, 0), n - 1) for i in at]
    if mode == 'reflect':
        return [n - 1 - abs(n - 1 - abs(i)) for i in at]
    return [i if 0 <= i < n else None for i in at]


PADS = [
    # x, padding, modes
    ((2, 5, 3), ((2, 3),), patches.PADDING_MODES),
    ((2, 5, 4, 3), ((1, 2), (3, 0)), patches.PADDING_MODES),
    ((2, 5, 4, 3), 3, patches.PADDING_MODES),
    ((4, 3, 2, 3), (2, 1, 1), patches.PADDING_MODES),  # no batch axis
    ((2, 2, 3, 1, 2), ((3, 3), (1, 0)), ('zeros', 'replicate')),
    ((2, 3, 3), ((3, 3),), ('circular',)),
    ((0, 3, 4, 3), ((1, 1), (2, 2)), patches.PADDING_MODES),
    ((2, 5, 4, 3), ((-1, 2), (-2, -1)), ('zeros',)),
    ((2, 1, 4, 3), ((0, 0), (0, 0)), patches.PADDING_MODES),
]


@pytest.mark.parametrize(
    'shape, padding, mode, dtype',
    [(*pad[:2], mode, np.float32) for pad in PADS for mode in pad[2]]
    + [(*PADS[1][:2], mode, jnp.bfloat16) for mode in patches.PADDING_MODES],
    ids=str,
)
def test_pad(shape, padding, mode, dtype):
    ndim = len(shape) - 2 if isinstance(padding, int) else len(padding)
    pairs = [
        (p, p) if isinstance(p, int) else p
        for p in ((padding,) * ndim if isinstance(padding, int) else padding)
    ]
    size = shape[-1 - ndim : -1]
    maps = [source(n, *pair, mode) for n, pair in zip(size, pairs, strict=True)]
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(dtype)
    flat = x.reshape(-1, *size, shape[-1])
    expected = np.zeros((len(flat), *map(len, maps), shape[-1]), dtype)
    dy = rng.normal(size=expected.shape).astype(dtype)
    dx = np.zeros(flat.shape)
    for to in np.ndindex(*map(len, maps)):
        at = tuple(along[i] for along, i in zip(maps, to, strict=True))
        if None not in at:
            expected[(slice(None), *to)] = flat[(slice(None), *at)]
            dx[(slice(None), *at)] += np.asarray(dy, np.float64)[(slice(None), *to)]
    run = functools.partial(patches.pad, padding=padding, mode=mode)
    y_shape = (*shape[: -1 - ndim], *expected.shape[1:])
    y, gradient, *_ = everything(run)(x, dy.reshape(y_shape), x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, expected.reshape(y_shape))
    assert_close(gradient, dx.reshape(shape), 3**ndim)


def test_pad_as_documented():
    x = np.arange(1, 5).reshape(1, 4, 1)
    for mode, text in {
        'zeros': '00123400',
        'reflect': '32123432',
        'replicate': '11123444',
        'circular': '34123412',
    }.items():
        padded = patches.pad(x, 2, mode)
        assert ''.join(map(str, padded.ravel())) == text and text in patches.pad.__doc__


@pytest.mark.parametrize(
    'dtype, value', [(np.float32, -np.inf), (jnp.bfloat16, 1.5), (np.int8, -128), (np.float16, 0.5)]
)
def test_pad_with_a_value(dtype, value):
    x = np.arange(12).reshape(1, 4, 3, 1).astype(dtype)
    run = functools.partial(patches.pad, padding=((2, -1), (0, 1)), value=value)
    y = run(x)
    expected = np.full((1, 5, 4, 1), value, dtype)
    expected[:, 2:, :3] = x[:, :3]
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, expected)
    if not jnp.issubdtype(dtype, jnp.floating):
        return
    _, gradient, tangent, _ = everything(run)(x, np.ones_like(expected), x)
    np.testing.assert_array_equal(gradient, np.repeat([1, 1, 1, 0], 3).reshape(x.shape))
    np.testing.assert_array_equal(tangent, np.where(expected == value, 0, expected))


UNFOLDS = [
    # x, window, options
    ((2, 7, 3), (3,), {}),
    ((2, 6, 5, 3), 2, {}),
    ((2, 6, 5, 3), (2, 3), {'strides': (2, 1), 'padding': 1}),
    ((2, 7, 6, 2), (3, 2), {'strides': 2, 'padding': ((0, 2), (1, 0)), 'dilation': (2, 3)}),
    ((1, 4, 3, 4, 2), (2, 1, 3), {'strides': (1, 2, 1), 'padding': 'SAME'}),
    ((2, 7, 5, 1), 2, {'strides': 4}),  # some elements are in no patch
    ((3, 4, 2), (2, 2), {}),
    ((2, 0, 3, 4, 2), (2, 2), {}),
]


@pytest.mark.parametrize('shape, window, options', UNFOLDS, ids=str)
def test_unfold_and_fold(shape, window, options):
    ndim = len(shape) - 2 if isinstance(window, int) else len(window)
    window_ = (window,) * ndim if isinstance(window, int) else window
    each = lambda v: (v,) * ndim if isinstance(v, int) else v  # noqa: E731
    strides, dilation = each(options.get('strides', 1)), each(options.get('dilation', 1))
    size = shape[-1 - ndim : -1]
    padding = options.get('padding', 0)
    if padding == 'SAME':
        padding = ((0, 1), (0, 0), (1, 1))  # for the only case with this padding
    pairs = [(p, p) if isinstance(p, int) else p for p in each(padding)]
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    flat = x.reshape(-1, *size, shape[-1])
    y = patches.unfold(x, window, **options)
    outputs = y.shape[-1 - ndim : -1]
    assert outputs == tuple(
        (n + sum(p) - (k - 1) * d - 1) // s + 1
        for n, p, k, d, s in zip(size, pairs, window_, dilation, strides, strict=True)
    )
    expected = np.zeros((len(flat), *outputs, int(np.prod(window_)), shape[-1]), np.float32)
    p = rng.normal(size=expected.shape).astype(np.float32)
    folded = np.zeros(flat.shape)
    for to in np.ndindex(*outputs):
        for number, tap in enumerate(itertools.product(*map(range, window_))):
            at = [
                o * s + t * d - lo
                for o, s, t, d, (lo, _) in zip(to, strides, tap, dilation, pairs, strict=True)
            ]
            if all(0 <= i < n for i, n in zip(at, size, strict=True)):
                expected[(slice(None), *to, number)] = flat[(slice(None), *at)]
                folded[(slice(None), *at)] += p[(slice(None), *to, number)]
    np.testing.assert_array_equal(y, expected.reshape(y.shape))
    p = p.reshape(y.shape)
    fold = functools.partial(patches.fold, output_size=size, window=window, **options)
    unfold = functools.partial(patches.unfold, window=window, **options)
    back, adjoint, *_ = everything(fold)(p, x, p)
    assert_close(back, folded.reshape(shape), np.prod(window_))
    np.testing.assert_array_equal(adjoint, y)
    _, adjoint, *_ = everything(unfold)(x, p, x)
    assert_close(adjoint, folded.reshape(shape), np.prod(window_))


def test_unfold_times_kernel_is_convolution():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 6, 5, 3)), rng.normal(size=(3, 2, 3, 4))
    with x64():
        y = patches.unfold(x, (3, 2), strides=2, padding=1) @ kernel.reshape(-1, 4)
        expected = cnn_jax.conv(x, kernel, strides=2, padding=1)
    np.testing.assert_allclose(y, expected, rtol=1e-12)


def test_16_bit_sums_in_float32():
    """Checks 1 + 8 * 2^-9: 1 if each partial sum is rounded to bfloat16, else 1 + 2^-6."""
    p = np.full((1, 3, 3, 9), 2.0**-9)
    p[0, 0, 0, 8] = 1  # tap (2, 2) of the first patch: position (2, 2)
    p = jnp.asarray(p, jnp.bfloat16)
    assert float(patches.fold(p, 5, 3)[0, 2, 2, 0]) == 1 + 2.0**-6
    x = jnp.zeros((1, 5, 5, 1), jnp.bfloat16)
    (gradient,) = jax.vjp(lambda x: patches.unfold(x, 3), x)[1](p)
    assert float(gradient[0, 2, 2, 0]) == 1 + 2.0**-6
    dy = jnp.full((1, 10, 1), 2.0**-9, jnp.bfloat16).at[0, 0, 0].set(1)
    (gradient,) = jax.vjp(lambda x: patches.pad(x, ((8, 1),), 'replicate'), x[:, 0, :1])[1](dy)
    assert float(gradient[0, 0, 0]) == 1 + 2.0**-6


def test_integers():
    x = np.arange(12).reshape(1, 4, 3, 1)
    y = patches.unfold(x, 2)
    assert jnp.issubdtype(y.dtype, jnp.integer)
    back = patches.fold(y, (4, 3), 2)
    np.testing.assert_array_equal(back.ravel(), x.ravel() * [1, 2, 1, 2, 4, 2, 2, 4, 2, 1, 2, 1])


def test_torch_agrees():
    torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra: compare)')
    functional = torch.nn.functional
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 3))
    t = torch.tensor(x).movedim(-1, 1).contiguous()
    options = {'dilation': (1, 2), 'padding': (1, 2), 'stride': (2, 1)}
    theirs = functional.unfold(t, (3, 2), **options)
    with x64():
        ours = {'dilation': (1, 2), 'padding': (1, 2), 'strides': (2, 1)}
        y = patches.unfold(x, (3, 2), **ours)
        back = patches.fold(y, (7, 6), (3, 2), **ours)
        pads = {m: patches.pad(x, ((1, 2), (3, 0)), m) for m in patches.PADDING_MODES}
    # (N, C * taps, L) -> (N, L, taps * C)
    reordered = theirs.reshape(2, 3, 6, -1).permute(0, 3, 2, 1).reshape(2, -1, 18)
    np.testing.assert_array_equal(np.asarray(y).reshape(2, -1, 18), reordered)
    folded = functional.fold(theirs, (7, 6), (3, 2), **options)
    np.testing.assert_allclose(back, folded.movedim(1, -1), rtol=1e-12)
    for mode, padded in pads.items():
        name = 'constant' if mode == 'zeros' else mode
        expected = functional.pad(t, (3, 0, 1, 2), mode=name).movedim(1, -1)
        np.testing.assert_array_equal(padded, expected)

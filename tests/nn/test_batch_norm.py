"""Tests `nn.BatchNorm` against float64 NumPy, PyTorch and `nnx.BatchNorm`."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jax.test_util import check_grads

from cnn_jax import nn
from tests.compilation import x64

SHAPES = [(8, 6), (5, 7, 6), (4, 5, 3, 6), (2, 3, 4, 2, 6), (1, 1, 6), (3, 4, 4, 1)]
EPSILON = 1e-3
# Flax 0.12 brings all arrays to one dtype first, as `nn.BatchNorm` does with any release.
PROMOTES = 'promote_dtype' in inspect.signature(nnx.BatchNorm).parameters


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def expected(x, scale, bias, dy):
    """Returns y, dx, dscale and dbias in float64, by the formulas of the paper, section 3."""
    axes, n = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    centred, var = x - x.mean(axes), x.var(axes)
    std = np.sqrt(var + EPSILON)
    dhat = dy * scale
    dvar = (dhat * centred).sum(axes) * -0.5 * std**-3
    dmean = -(dhat / std).sum(axes)  # the paper's second term, the sum of `centred`, is 0
    dx = dhat / std + dvar * 2 * centred / n + dmean / n
    return centred / std * scale + bias, dx, (dy * centred / std).sum(axes), dy.sum(axes)


def value_and_gradients(make, x, scale, bias, dy, **options):
    norm = make(x.shape[-1], epsilon=EPSILON, rngs=nnx.Rngs(0), **options)
    graph, _, stats = nnx.split(norm, nnx.Param, ...)

    @jax.jit
    def run(x, scale, bias, dy):
        def apply(x, scale, bias):
            params = nnx.State({'scale': nnx.Param(scale), 'bias': nnx.Param(bias)})
            return nnx.merge(graph, params, stats, copy=True)(x)

        y, vjp = jax.vjp(apply, x, scale, bias)
        return y, *vjp(dy.astype(y.dtype))

    return run(x, scale, bias, dy)


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('shape', SHAPES)
def test_values_and_gradients(shape, dtype, fast):
    features = shape[-1]
    x, dy = (jnp.asarray(normal(shape, seed), dtype) for seed in (0, 1))
    scale, bias = (jnp.asarray(normal(features, seed), jnp.float32) for seed in (2, 3))
    results = value_and_gradients(
        nn.BatchNorm, x, scale, bias, dy, dtype=jnp.dtype(dtype), use_fast_variance=fast
    )
    correct = expected(*(np.asarray(a, np.float64) for a in (x, scale, bias, dy)))
    assert [r.dtype for r in results] == [dtype, dtype, 'float32', 'float32']
    # One rounding to bfloat16, or some tens of float32. The gradient grows as 1 / std.
    unit = float(jnp.finfo(dtype).eps) * (1 if dtype == 'bfloat16' else 30)
    for result, right in zip(results, correct, strict=True):
        limit = unit * max(1, np.abs(right).max())
        np.testing.assert_allclose(np.asarray(result, np.float64), right, rtol=0, atol=limit)


@pytest.mark.parametrize('fast', [True, False])
def test_is_as_accurate_as_flax_with_a_large_mean(fast):
    """The fast variance then loses the digits of the square of mean / std."""
    x, dy = 100 + normal((64, 9, 4)), normal((64, 9, 4), seed=1)
    scale, bias = normal(4, seed=2), normal(4, seed=3)
    arguments = [jnp.asarray(a, jnp.float32) for a in (x, scale, bias, dy)]
    correct = expected(*(np.asarray(a, np.float64) for a in arguments))

    def errors(make):
        results = value_and_gradients(make, *arguments, use_fast_variance=fast)
        return [
            np.abs(result - right).max() / np.abs(right).max()
            for result, right in zip(results, correct, strict=True)
        ]

    for ours, flax in zip(errors(nn.BatchNorm), errors(nnx.BatchNorm), strict=True):
        assert ours < 1.5 * flax + 1e-6


@pytest.mark.parametrize('shape', [(8, 6), (5, 7, 6), (4, 5, 3, 6)])
def test_equals_pytorch(shape):
    torch = pytest.importorskip('torch')
    layer = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d}[len(shape)]
    theirs, ours = layer(6), nn.BatchNorm(6, momentum=0.9, rngs=nnx.Rngs(0))
    first, last = (lambda a: np.moveaxis(a, -1, 1)), (lambda a: np.moveaxis(a, 1, -1))
    for seed in range(3):
        x = normal(shape, seed).astype(np.float32)
        y = theirs(torch.tensor(np.ascontiguousarray(first(x)))).detach().numpy()
        np.testing.assert_allclose(ours(x), last(y), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.mean[...], theirs.running_mean, rtol=1e-5, atol=1e-6)
    # PyTorch's running average is of the unbiased variance.
    n = x.size // 6
    unbiased = 0.9**3 + (np.asarray(ours.var[...]) - 0.9**3) * n / (n - 1)
    np.testing.assert_allclose(unbiased, theirs.running_var, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'use_bias': False},
        {'use_scale': False},
        {'use_scale': False, 'use_bias': False},
        {'axis': 1},
        {'axis': -3},
        *([{'dtype': jnp.bfloat16}] if PROMOTES else []),
        {'param_dtype': jnp.bfloat16},
        {'use_fast_variance': False, 'momentum': 0.5},
    ],
    ids=str,
)
def test_equals_flax(options):
    """Results, dtypes and statistics, in training, with a mask and in evaluation."""
    make = functools.partial(nnx.BatchNorm, 6, rngs=nnx.Rngs(0), **options)
    ours, theirs = nn.BatchNorm(6, rngs=nnx.Rngs(0), **options), make()
    x = jnp.asarray(3 + 2 * normal((4, 6, 6, 6)), jnp.float32)
    mask = jnp.asarray(normal((4, 6, 6, 6), 1) > 0)
    limit = 2e-2 if jnp.bfloat16 in options.values() else 2e-5

    def check(call):
        results = [call(norm) for norm in (ours, theirs)]
        assert results[0].dtype == results[1].dtype
        np.testing.assert_allclose(
            *(np.asarray(r, np.float32) for r in results), rtol=limit, atol=limit
        )
        for a, b in zip(*map(jax.tree.leaves, map(nnx.state, (ours, theirs))), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    check(lambda norm: norm(x))
    if PROMOTES:
        check(lambda norm: norm(x.astype(jnp.bfloat16)))
    check(lambda norm: norm(x, mask=mask))
    check(lambda norm: norm(x, use_running_average=True))
    for norm in (ours, theirs):
        norm.eval()
    check(lambda norm: norm(x))


@pytest.mark.filterwarnings('ignore:scatter inputs', 'ignore:Casting complex')
def test_complex_numbers_and_no_mode_are_left_to_flax():
    x = normal((5, 6)) + 1j * normal((5, 6), 1)
    ours, theirs = (cls(6, rngs=nnx.Rngs(0)) for cls in (nn.BatchNorm, nnx.BatchNorm))
    np.testing.assert_array_equal(ours(x), theirs(x))
    with pytest.raises(ValueError, match='use_running_average'):
        nn.BatchNorm(6, use_running_average=None, rngs=nnx.Rngs(0))(x)


def test_derivatives_of_every_order():
    with x64():
        norm = nn.BatchNorm(3, epsilon=EPSILON, rngs=nnx.Rngs(0))
        graph, state = nnx.split(norm)
        apply = lambda x: nnx.merge(graph, state, copy=True)(x)  # noqa: E731
        check_grads(apply, (normal((4, 2, 3)),), order=2, modes=('fwd', 'rev'))


def test_vmap():
    norm = nn.BatchNorm(3, rngs=nnx.Rngs(0))
    graph, state = nnx.split(norm)
    apply = lambda x: nnx.merge(graph, state, copy=True)(x)  # noqa: E731
    x = jnp.asarray(normal((2, 5, 4, 3)), jnp.float32)
    each = jnp.stack([apply(x[0]), apply(x[1])])
    np.testing.assert_allclose(jax.vmap(apply)(x), each, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('groups', [None, [[0, 1], [2, 3]]])
def test_an_axis_of_shard_map_or_pmap(groups):
    """Statistics over devices, as of the whole batch or of groups of devices."""
    options = {'axis_name': 'batch', 'axis_index_groups': groups}
    norm = nn.BatchNorm(6, rngs=nnx.Rngs(0), **options)
    graph, state = nnx.split(norm)
    x, weights = (jnp.asarray(normal((8, 5, 6), seed), jnp.float32) for seed in (0, 1))
    plain = nn.BatchNorm(6, rngs=nnx.Rngs(0))
    parts = [x] if groups is None else np.split(x, 2)
    whole = np.concatenate([plain(part) for part in parts])

    def loss(norm_state, x, weights):
        return (nnx.merge(graph, norm_state, copy=True)(x) * weights).sum()

    per_device = jax.pmap(lambda x: nnx.merge(graph, state, copy=True)(x), axis_name='batch')
    y = per_device(x.reshape(4, 2, 5, 6)).reshape(x.shape)
    np.testing.assert_allclose(y, whole, rtol=1e-5, atol=1e-5)
    if groups:
        return
    mesh = Mesh(np.array(jax.devices()[:4]), ('batch',))
    sharded = jax.jit(
        jax.shard_map(
            jax.grad(loss, argnums=1),
            mesh=mesh,
            in_specs=(PartitionSpec(), *[PartitionSpec('batch')] * 2),
            out_specs=PartitionSpec('batch'),
        )
    )
    graph, state = nnx.split(plain)
    correct = jax.grad(loss, argnums=1)(state, x, weights)
    graph, state = nnx.split(norm)
    np.testing.assert_allclose(sharded(state, x, weights), correct, rtol=1e-4, atol=1e-5)

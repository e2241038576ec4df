"""Tests of the sums of batch norm's gradient in programs of other libraries, as lowered."""

import contextlib

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export, lax

import cnn_jax
from cnn_jax import nn
from cnn_jax.ops.lowering import batch_norm
from tests.compilation import x64

SHAPE = (8, 12, 12, 32)  # large enough for the rules
EPSILON = 1e-3


@pytest.fixture
def rewritten(monkeypatch):
    """Returns the list of sums that are rewritten from now on."""
    found = []
    read = batch_norm.read

    def spy(summand, axes):
        result = read(summand, axes)
        if result is not None and 'negate' not in str(summand.owner.name):
            found.append(axes)
        return result

    monkeypatch.setattr(batch_norm, 'read', spy)
    return found


def haiku_norm(x, scale, bias, axes):
    mean = x.mean(axes, keepdims=True)
    var = (x**2).mean(axes, keepdims=True) - mean**2
    return (x - mean) * (lax.rsqrt(var + EPSILON) * scale) + bias


def flax_norm(library, **options):
    def norm(x, scale, bias, axes):
        axis = next(i for i in range(x.ndim) if i not in axes)
        options.update(axis=axis, epsilon=EPSILON, use_running_average=False)
        if library == 'linen':
            variables = {
                'params': {'scale': scale.ravel(), 'bias': bias.ravel()},
                'batch_stats': {'mean': jnp.zeros(scale.size), 'var': jnp.ones(scale.size)},
            }
            return linen.BatchNorm(**options).apply(variables, x, mutable=['batch_stats'])[0]
        layer = nnx.BatchNorm(scale.size, param_dtype=scale.dtype, rngs=nnx.Rngs(0), **options)
        layer.scale[...], layer.bias[...] = scale.ravel(), bias.ravel()
        return layer(x)

    return norm


NORMS = {
    'as in Haiku': haiku_norm, 'linen': flax_norm('linen'), 'nnx': flax_norm('nnx'),
}  # fmt: skip


def operands(shape, axis, mean=0.5):
    rng = np.random.default_rng(0)
    small = [n if i == axis % len(shape) else 1 for i, n in enumerate(shape)]
    x, g = mean + rng.normal(size=shape), rng.normal(size=shape)
    return x, rng.uniform(0.5, 2, small), rng.normal(size=small), g


def gradients(norm, axis):
    def run(x, scale, bias, g):
        axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
        y, pull = jax.vjp(lambda *args: norm(*args, axes), x, scale, bias)
        return y, *pull(g.astype(y.dtype))

    return run


def closed_form(x, scale, bias, g, axis):
    """The gradients in float64 NumPy (Ioffe and Szegedy 2015, section 3)."""
    axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    mean, deviation = x.mean(axes, keepdims=True), np.sqrt(x.var(axes, keepdims=True) + EPSILON)
    z = (x - mean) / deviation
    dscale, dbias = (g * z).sum(axes, keepdims=True), g.sum(axes, keepdims=True)
    count = x.size / mean.size
    return (
        z * scale + bias,
        scale / deviation * (g - dbias / count - z * dscale / count),
        dscale,
        dbias,
    )


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('shape, axis', [
    (SHAPE, -1), ((8, 32, 12, 12), 1), ((64, 96, 3), -1), ((8192, 2), 1), ((4, 8, 8, 8, 8), -1),
])  # fmt: skip
@pytest.mark.parametrize('norm', NORMS)
def test_gradients_are_those_of_the_closed_form(norm, shape, axis, dtype, rewritten):
    exact = operands(shape, axis)
    expected = closed_form(*exact, axis)
    with x64(dtype == 'float64'), cnn_jax.installed():
        found = jax.jit(gradients(NORMS[norm], axis))(*(jnp.asarray(a, dtype) for a in exact))
    assert len(rewritten) == 2
    # Rounding errors of a sum of n random terms, twice the size of one, grow like sqrt(n).
    tolerance = 16 * np.sqrt(np.prod(shape)) * float(jnp.finfo(dtype).eps)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(np.ravel(a), np.ravel(b), rtol=0, atol=tolerance)


def test_gradients_in_bfloat16_are_no_less_accurate(rewritten):
    norm = flax_norm('linen', dtype=jnp.bfloat16)
    exact = operands(SHAPE, -1, mean=3)
    arrays = [jnp.asarray(a, jnp.bfloat16 if a.shape == SHAPE else jnp.float32) for a in exact]
    expected = closed_form(*(np.asarray(a, np.float64) for a in arrays), -1)
    plain = jax.jit(lambda *args: gradients(norm, -1)(*args))(*arrays)
    with cnn_jax.installed():
        found = jax.jit(gradients(norm, -1))(*arrays)
    assert len(rewritten) == 2
    for ours, jaxs, b in zip(found, plain, expected, strict=True):
        error, usual = (
            np.abs(np.ravel(a).astype(np.float64) - b.ravel()).max() for a in (ours, jaxs)
        )
        assert error <= 2 * usual


def test_a_variance_of_two_passes_keeps_its_accuracy(rewritten):
    norm = flax_norm('linen', use_fast_variance=False)
    exact = operands(SHAPE, -1, mean=1000)
    arrays = [jnp.asarray(a, jnp.float32) for a in exact]
    expected = closed_form(*(np.asarray(a, np.float64) for a in arrays), -1)
    with cnn_jax.installed():
        found = jax.jit(gradients(norm, -1))(*arrays)
    assert len(rewritten) == 1  # that of dy * factor
    plain = jax.jit(lambda *args: gradients(norm, -1)(*args))(*arrays)
    np.testing.assert_array_equal(found[2], plain[2])
    np.testing.assert_allclose(np.ravel(found[2]), expected[2].ravel(), rtol=1e-3, atol=0.1)


def test_other_sums_of_differences_are_left_to_jax(rewritten):
    def covariance(x, y):
        mean = x.mean((0, 1, 2))
        return ((x - mean) * y).sum((0, 1, 2)), ((x - mean) ** 2).sum((0, 1, 2))

    x, *_, y = operands(SHAPE, -1, mean=1000)
    args = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    expected = jax.jit(lambda *args: covariance(*args))(*args)
    with cnn_jax.installed():
        found = jax.jit(covariance)(*args)
    assert not rewritten
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def fast_moments(x):
    """Squares of differences in a program that has a fast variance, too."""
    mean = x.mean((0, 1, 2))
    centred = x - mean
    return (x * x).mean((0, 1, 2)) - mean * mean, (centred * centred).sum((0, 1, 2))


@pytest.mark.parametrize('f', [
    fast_moments,
    lambda x: (x * jnp.arange(32.0)).sum((0, 1, 2)),  # the sum of x is not computed
    lambda x: (x.sum((0, 1)), (x * jnp.arange(32.0)).sum((0, 1, 2))),
    lambda x: (x.sum(3), (x * jnp.arange(32.0)).sum(3)),  # the factor is not constant
    lambda x: (x.sum((1, 2)), (x * jnp.arange(12.0)[:, None, None]).sum((1, 2))),
])  # fmt: skip
def test_other_sums_of_products_are_left_to_jax(f, rewritten):
    with cnn_jax.installed():
        jax.jit(f).lower(jnp.ones(SHAPE))
    assert not rewritten


@pytest.mark.parametrize('axes, at', [((0, 1, 2), 3), ((1, 2), 3), ((1, 3), 2), ((0, 2, 3), 1)])
def test_a_constant_factor_may_lie_along_any_kept_axis(axes, at, rewritten):
    shape = [n if i == at else 1 for i, n in enumerate(SHAPE)]
    v = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
    x = jnp.asarray(np.random.default_rng(2).normal(size=SHAPE), jnp.float32)
    both = lambda x, v: (x.sum(axes), -(v * x).sum(axes))  # noqa: E731
    with cnn_jax.installed():
        found = jax.jit(both)(x, v)
    assert len(rewritten) == 1
    expected = both(np.asarray(x, np.float64), np.asarray(v, np.float64))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-3), found, expected)


@pytest.mark.parametrize('is_installed, shape', [(False, SHAPE), (True, (2, 4, 4, 32))])
def test_small_arrays_and_programs_without_install_are_left_to_jax(is_installed, shape, rewritten):
    arrays = [jnp.asarray(a, jnp.float32) for a in operands(shape, -1)]
    with cnn_jax.installed() if is_installed else contextlib.nullcontext():
        jax.jit(gradients(haiku_norm, -1)).lower(*arrays)
    assert not rewritten


def test_a_symbolic_size_is_left_to_jax(rewritten):
    batch = export.symbolic_shape('n')[0]
    shapes = [(batch, *SHAPE[1:]), (1, 1, 1, 32), (1, 1, 1, 32), (batch, *SHAPE[1:])]
    with cnn_jax.installed():
        export.export(jax.jit(gradients(haiku_norm, -1)))(
            *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
        )
    assert not rewritten


def test_no_intermediate_array_is_written():
    """The step reads and writes no more than that of `nn.BatchNorm`."""
    arrays = [jnp.asarray(a, jnp.float32) for a in operands(SHAPE, -1)]

    def traffic(norm):
        step = jax.jit(gradients(norm, -1)).lower(*arrays).compile()
        return step.cost_analysis()['bytes accessed']

    def ours(x, scale, bias, axes):
        layer = nn.BatchNorm(32, epsilon=EPSILON, rngs=nnx.Rngs(0))
        layer.scale[...], layer.bias[...] = scale.ravel(), bias.ravel()
        return layer(x)

    with cnn_jax.installed():
        assert traffic(flax_norm('nnx')) < 1.05 * traffic(ours)


@pytest.mark.parametrize('transform', ['vmap', 'scan', 'remat', 'jvp of grad'])
def test_transforms(transform):
    axis, arrays = -1, [jnp.asarray(a, jnp.float32) for a in operands(SHAPE, -1)]
    run = gradients(haiku_norm, axis)
    several = [jnp.stack([a, 2 * a]) for a in arrays]
    f, args = {
        'vmap': (jax.vmap(run), several),
        'scan': (lambda *args: lax.scan(lambda c, a: (c, run(*a)), 0, args)[1], several),
        'remat': (gradients(jax.checkpoint(haiku_norm, static_argnums=3), axis), arrays),
        'jvp of grad': (lambda *args: jax.jvp(run, args, tuple(args)), arrays),
    }[transform]
    expected = jax.jit(lambda *args: f(*args))(*args)
    with cnn_jax.installed():
        found = jax.jit(f)(*args)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-2), found, expected
    )

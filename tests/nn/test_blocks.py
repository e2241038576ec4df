"""Tests of the layers of modern networks, against float64 NumPy, PyTorch, Flax and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from cnn_jax import nn

SHAPES = [(3, 7, 6), (2, 5, 4, 6), (2, 3, 4, 5, 6), (1, 1, 1, 6)]


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize('shape', SHAPES)
def test_squeeze_excitation_is_its_formula(shape):
    block = nn.SqueezeExcitation(6, 3, rngs=nnx.Rngs(0))
    block.fc1.bias[...], block.fc2.bias[...] = normal((3,), seed=1), normal((6,), seed=2)
    x = normal(shape)
    w1, b1, w2, b2 = (
        np.asarray(p[...], np.float64)
        for p in (block.fc1.kernel, block.fc1.bias, block.fc2.kernel, block.fc2.bias)
    )
    mean = x.astype(np.float64).mean(tuple(range(1, x.ndim - 1)), keepdims=True)
    expected = x * sigmoid(np.maximum(mean @ w1 + b1, 0) @ w2 + b2)
    np.testing.assert_allclose(block(x), expected, rtol=1e-5, atol=1e-6)
    jitted = nnx.jit(lambda block, x: block(x))
    np.testing.assert_allclose(jitted(block, x), expected, rtol=1e-5, atol=1e-6)
    one = jax.vmap(lambda each: block(each[None])[0])(x)
    np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)
    assert block(x.astype(jnp.bfloat16)).shape == x.shape


def test_squeeze_excitation_has_the_gradients_of_pytorch():
    torch = pytest.importorskip('torch')
    block = nn.SqueezeExcitation(6, 3, gate=nnx.hard_sigmoid, rngs=nnx.Rngs(0))
    x = normal((2, 5, 4, 6))
    graph, params = nnx.split(block)
    ours = jax.grad(lambda p, x: jnp.square(nnx.merge(graph, p)(x)).sum(), (0, 1))(params, x)
    tx = torch.tensor(x, requires_grad=True)
    w1, w2 = (
        torch.tensor(np.asarray(fc.kernel[...]), requires_grad=True)
        for fc in (block.fc1, block.fc2)
    )
    hidden = torch.relu(tx.mean((1, 2), keepdim=True) @ w1)
    (tx * torch.nn.functional.hardsigmoid(hidden @ w2)).square().sum().backward()
    for mine, its in (
        (ours[1], tx),
        (ours[0]['fc1']['kernel'][...], w1),
        (ours[0]['fc2']['kernel'][...], w2),
    ):
        np.testing.assert_allclose(mine, its.grad.numpy(), rtol=1e-5, atol=1e-5)


def test_squeeze_excitation_computes_in_its_dtype():
    block = nn.SqueezeExcitation(6, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jnp.asarray(normal((2, 5, 4, 6)), jnp.bfloat16)
    assert block(x).dtype == jnp.bfloat16 and block.fc1.kernel[...].dtype == jnp.float32


@pytest.mark.parametrize('shape', [(5,), *SHAPES])
def test_stochastic_depth_drops_whole_examples(shape):
    shape = (64, *shape[1:])
    drop = nn.StochasticDepth(0.25, rngs=nnx.Rngs(0))
    y = np.asarray(drop(jnp.ones(shape))).reshape(64, -1)
    assert (y == y[:, :1]).all()
    np.testing.assert_allclose(sorted(set(y[:, 0].tolist())), [0, 1 / 0.75], rtol=1e-6)
    assert 4 <= (y[:, 0] == 0).sum() <= 28  # 16 expected, 3.5 standard deviations either way
    again = np.asarray(drop(jnp.ones(shape))).reshape(64, -1)
    assert (again != y).any()


def test_stochastic_depth_is_switched_like_dropout():
    x = jnp.asarray(normal((4, 3, 2)))
    drop = nn.StochasticDepth(0.5, rngs=nnx.Rngs(0))
    drop.eval()
    assert (drop(x) == x).all()
    drop.train()
    assert not (drop(x) == x).all()
    assert (drop(x, deterministic=True) == x).all()
    assert (nn.StochasticDepth(1.0, rngs=nnx.Rngs(0))(x) == 0).all()
    assert (nn.StochasticDepth(0.0)(x) == x).all()
    assert drop(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_stochastic_depth_has_the_gradient_of_its_mask():
    drop = nn.StochasticDepth(0.5, rngs=nnx.Rngs(0))
    key = jax.random.key(3)
    x = jnp.asarray(normal((16, 3, 2)))
    mask = drop(jnp.ones_like(x), rngs=key)
    assert 0 < (mask == 0).sum() < mask.size
    assert (jax.jit(jax.grad(lambda x: drop(x, rngs=key).sum()))(x) == mask).all()


@pytest.mark.parametrize('shape', [(12, 6), (12, 5, 6), (12, 4, 3, 6)])
@pytest.mark.parametrize('size', [3, 12])
@pytest.mark.parametrize('fast', [False, True])
def test_ghost_batch_norm_is_batch_norm_of_every_group(shape, size, fast):
    options = {'momentum': 0.9, 'use_fast_variance': fast, 'rngs': nnx.Rngs(0)}
    ghost = nn.GhostBatchNorm(6, group_size=size, **options)
    ghost.scale[...], ghost.bias[...] = normal((6,), seed=1), normal((6,), seed=2)
    x = 3 + 2 * normal(shape)
    expected, means, variances = [], [], []
    for group in np.split(x, len(x) // size):
        norm = nnx.BatchNorm(6, **options)
        nnx.update(norm, nnx.state(ghost, nnx.Param))
        expected.append(norm(group))
        means.append(norm.mean[...])
        variances.append(norm.var[...])
    np.testing.assert_allclose(ghost(x), np.concatenate(expected), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(ghost.mean[...], np.mean(means, 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ghost.var[...], np.mean(variances, 0), rtol=1e-5, atol=1e-6)
    ghost.eval()
    plain = nnx.BatchNorm(6, use_running_average=True, rngs=nnx.Rngs(0))
    nnx.update(plain, nnx.state(ghost, (nnx.Param, nnx.BatchStat)))
    np.testing.assert_array_equal(ghost(x[:5]), plain(x[:5]))


def test_ghost_batch_norm_does_not_depend_on_how_the_batch_is_shared():
    x = normal((8, 5, 6))
    norm = nn.GhostBatchNorm(6, group_size=2, rngs=nnx.Rngs(0))
    run = nnx.jit(lambda norm, x: norm(x))
    whole = run(norm, x)
    parts = [run(norm, part) for part in np.split(x, 2)]
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-6, atol=1e-6)


def sharded(norm, x, count):
    """Returns the compiled training step of a norm for a batch spread over `count` devices."""
    mesh = Mesh(np.array(jax.devices()[:count]), ('batch',))
    rows, same = NamedSharding(mesh, P('batch')), NamedSharding(mesh, P())
    graph, state = nnx.split(norm)

    def run(state, x):
        norm = nnx.merge(graph, state)
        y = norm(x)
        return y, nnx.state(norm)

    place = jax.tree.map(lambda _: same, state)
    return jax.jit(run, in_shardings=(place, rows), out_shardings=(rows, place)), (state, x)


@pytest.mark.parametrize('size', [2, 4])  # on 4 devices, a group of 4 examples spans two
def test_ghost_batch_norm_does_not_depend_on_the_number_of_devices(size):
    norm, x = nn.GhostBatchNorm(6, group_size=size, rngs=nnx.Rngs(0)), normal((8, 5, 6))
    results = []
    for count in (1, 2, 4):
        run, arguments = sharded(norm, x, count)
        results.append(run(*arguments))
    for other in results[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), results[0], other
        )


@pytest.mark.optimized
def test_ghost_batch_norm_normalises_without_communication():
    words = ('all-reduce', 'all-gather', 'all-to-all', 'collective-permute', 'reduce-scatter')

    def communicates(norm):
        run, arguments = sharded(norm, normal((8, 5, 6)), 4)
        # Without the running statistics, which are averages over all examples.
        text = jax.jit(lambda *a: run(*a)[0]).lower(*arguments).compile().as_text()
        return [word for word in words if word in text]

    assert communicates(nn.GhostBatchNorm(6, group_size=2, rngs=nnx.Rngs(0))) == []
    assert communicates(nn.GhostBatchNorm(6, group_size=1, rngs=nnx.Rngs(0))) == []
    assert 'all-reduce' in communicates(nnx.BatchNorm(6, rngs=nnx.Rngs(0)))


def test_ghost_batch_norm_has_correct_gradients_and_dtypes():
    norm = nn.GhostBatchNorm(6, group_size=2, rngs=nnx.Rngs(0))
    graph, state = nnx.split(norm)
    x, weights = normal((4, 3, 6)), normal((4, 3, 6), seed=1)
    loss = lambda x: (nnx.merge(graph, state, copy=True)(x) * weights).sum()  # noqa: E731
    check_grads(loss, (x,), order=1, modes=('fwd', 'rev'), rtol=2e-2, atol=2e-2)
    half = nn.GhostBatchNorm(6, group_size=2, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    y = half(jnp.asarray(x, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16 and half.mean[...].dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(y, np.float32), norm(x), atol=0.05)


@pytest.mark.parametrize('shape', [(2, 9, 3), (2, 8, 7, 3), (2, 5, 6, 7, 2)])
@pytest.mark.parametrize(('window', 'stride'), [(1, 2), (2, 2), (3, 2), (5, 3), (3, 1)])
def test_blur_pool_is_a_separable_binomial_filter(shape, window, stride):
    pool, x = nn.BlurPool(window, stride), normal(shape)
    taps = np.array([1.0])
    for _ in range(window - 1):
        taps = np.convolve(taps, [0.5, 0.5])
    expected = x.astype(np.float64)
    for axis in range(1, x.ndim - 1):
        around = [(0, 0)] * x.ndim
        around[axis] = ((window - 1) // 2, window // 2)
        padded = np.pad(expected, around, 'reflect')
        blurred = np.apply_along_axis(np.convolve, axis, padded, taps, 'valid')
        expected = np.take(blurred, np.arange(0, x.shape[axis], stride), axis)
    np.testing.assert_allclose(pool(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(pool)(x), expected, rtol=1e-5, atol=1e-5)
    assert pool.output_size(shape[1:-1]) == expected.shape[1:-1]
    # It is linear, so its gradient is exact: the sum of what the outputs take of each input.
    check_grads(pool, (x,), order=1, modes=('rev',), rtol=1e-2, atol=1e-2)


def test_blur_pool_keeps_a_constant_and_the_dtype():
    x = jnp.full((1, 6, 6, 2), 3, jnp.bfloat16)
    y = nn.BlurPool()(x)
    assert y.dtype == jnp.bfloat16 and (y == 3).all()


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: nn.SqueezeExcitation(0, 2, rngs=nnx.Rngs(0)), 'channels=0: must be at least 1'),
        (lambda: nn.SqueezeExcitation(2, 0, rngs=nnx.Rngs(0)), 'hidden=0: must be at least 1'),
        (
            lambda: nn.SqueezeExcitation(2, 1, rngs=nnx.Rngs(0))(jnp.ones((1, 4, 3))),
            r'x must have shape \(batch, \*spatial, 2\), got \(1, 4, 3\)',
        ),
        (lambda: nn.StochasticDepth(1.5), r'rate=1.5: must be in \[0, 1\]'),
        (lambda: nn.StochasticDepth(0.5, broadcast_dims=(1,)), 'broadcast_dims: '),
        (lambda: nn.GhostBatchNorm(2, group_size=0, rngs=nnx.Rngs(0)), 'group_size=0: must be'),
        (
            lambda: nn.GhostBatchNorm(2, group_size=2, axis=1, rngs=nnx.Rngs(0)),
            'axis=1: is not supported',
        ),
        (
            lambda: nn.GhostBatchNorm(2, group_size=2, rngs=nnx.Rngs(0))(jnp.ones((3, 2))),
            'x has a batch of 3; must be a multiple of group_size=2',
        ),
        (lambda: nn.BlurPool(0), 'window=0: must be at least 1'),
        (lambda: nn.BlurPool(3, 0), 'stride=0: must be at least 1'),
        (lambda: nn.BlurPool()(jnp.ones((2, 3))), r'x must have shape'),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()

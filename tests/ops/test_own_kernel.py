"""Tests of a kernel that another package registers."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnn_jax
from cnn_jax.errors import UserError
from cnn_jax.ops.kernels import KERNELS


def forward(x, w, spec):
    """Computes the convolution tap by tap, for stride 1 and no dilation."""
    x = jax.lax.pad(
        x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*p, 0) for p in spec.padding), (0, 0, 0)]
    )
    height, width = spec.output_size
    taps = [(i, j) for i in range(spec.window[0]) for j in range(spec.window[1])]
    return sum(x[:, i : i + height, j : j + width] @ w[i, j] for i, j in taps)


def supports(spec, op, platform):
    plain = spec.ndim == 2 and spec.groups == 1
    ones = (1, 1)
    if plain and spec.strides == spec.dilation == spec.input_dilation == ones:
        return None
    return 'it is for 2-D convolutions of stride 1 without dilation or groups'


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(KERNELS, '_values', dict(KERNELS._values))
    KERNELS.register('own', types.SimpleNamespace(forward=forward, supports=supports))


def test_runs_where_it_is_named_with_its_gradients(own):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 7, 6, 3)), rng.normal(size=(3, 2, 3, 4))
    x, w = x.astype(np.float32), w.astype(np.float32)

    def loss(x, w, implementation):
        return (cnn_jax.conv(x, w, implementation=implementation) ** 2).sum()

    y = cnn_jax.conv(x, w, implementation='own')
    np.testing.assert_allclose(y, cnn_jax.conv(x, w, implementation='scan'), rtol=1e-4, atol=1e-5)
    ours, scans = (jax.grad(loss, (0, 1))(x, w, name) for name in ('own', 'scan'))
    for mine, theirs in zip(ours, scans, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)
    used = cnn_jax.explain(jax.grad(lambda x, w: loss(x, w, 'own')), x, w)
    assert {each.implementation for each in used} == {'own'}
    with cnn_jax.use_implementation('own'):
        assert cnn_jax.explain(cnn_jax.conv, x, w)[0].implementation == 'own'


def test_is_listed_and_refuses_with_its_reason(own):
    assert 'own' in cnn_jax.implementations('conv')
    with pytest.raises(UserError, match='2-D convolutions of stride 1'):
        cnn_jax.conv(
            jnp.ones((1, 8, 8, 1)), jnp.ones((3, 3, 1, 1)), strides=2, implementation='own'
        )
    assert (
        cnn_jax.explain(cnn_jax.conv, jnp.ones((1, 8, 8, 1)), jnp.ones((3, 3, 1, 1)))[
            0
        ].implementation
        != 'own'
    )  # without measurements, the default does not change


def test_is_unknown_where_nobody_registered_it():
    with pytest.raises(UserError, match="unknown implementation 'own' of conv"):
        cnn_jax.conv(jnp.ones((1, 8, 8, 1)), jnp.ones((3, 3, 1, 1)), implementation='own')

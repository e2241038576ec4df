"""Matfree, a library for curvature, works on our modules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnn_jax import models

decomp = pytest.importorskip('matfree.decomp', reason='the extra `libraries` is not installed')


def test_the_largest_eigenvalue_of_the_hessian_is_that_of_the_dense_matrix():
    model = models.create(
        'lecture_cnn', input_shape=(8, 8, 1), num_classes=3, features=(2, 3), hidden=(),
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    chance = np.random.default_rng(0)
    x = chance.normal(size=(6, 8, 8, 1)).astype(np.float32)
    labels = jnp.array([0, 1, 2, 0, 1, 2])

    def loss(flat):
        logits = nnx.merge(graph, unravel(flat), rest)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def product(vector):
        return jax.jvp(jax.grad(loss), (flat,), (vector,))[1]

    start = jnp.asarray(chance.normal(size=flat.shape), jnp.float32)
    lanczos = decomp.tridiag_sym(30, reortho='full')
    found = lanczos(product, start)
    largest = np.linalg.eigvalsh(np.asarray(found.J_small, np.float64)).max()
    hessian = np.asarray(jax.hessian(loss)(flat), np.float64)
    np.testing.assert_allclose(largest, np.linalg.eigvalsh(hessian).max(), rtol=1e-4)

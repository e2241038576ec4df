"""Tests the filing of instructions on compiled programs."""

import jax
import jax.numpy as jnp

import cnn_jax
from cnn_jax.bench.steps import hlo, timeline


def kinds_of(function, *args):
    text = jax.jit(function).lower(*args).compile().as_text()
    return hlo.kinds(text)


def test_the_passes_of_a_convolution():
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))

    def gradients(x, kernel):
        return jax.grad(lambda x, kernel: (cnn_jax.conv(x, kernel) ** 2).sum(), (0, 1))(x, kernel)

    assert set(timeline.CONVOLUTIONS) <= set(kinds_of(gradients, x, kernel).values())


def test_a_fusion_has_the_kind_of_most_of_its_work():
    def function(x):
        with jax.named_scope('batch_norm3'):
            x = jnp.tanh(x * 2 + 1)
        with jax.named_scope('relu4'):
            return jax.nn.relu(x)

    assert set(kinds_of(function, jnp.ones((8, 8))).values()) >= {timeline.NORM}
    (kind,) = {k for n, k in kinds_of(function, jnp.ones((8, 8))).items() if 'fusion' in n}
    assert kind == timeline.NORM


def test_a_matrix_product_decides_alone():
    def function(x, w):
        with jax.named_scope('dense0'):
            return jnp.tanh(x @ w) + 1

    assert timeline.MATMUL in kinds_of(function, jnp.ones((4, 300)), jnp.ones((300, 5))).values()


def test_a_dense_layer_is_a_matrix_product_also_as_a_convolution():
    x, w = jnp.ones((64, 32), jnp.bfloat16), jnp.ones((32, 16), jnp.bfloat16)

    def gradients(x, w):
        layer = lambda x, w: cnn_jax.dot_general(x, w, (((1,), (0,)), ((), ())))  # noqa: E731
        return jax.grad(lambda x, w: (layer(x, w) ** 2).sum(), (0, 1))(x, w)

    kinds = set(kinds_of(gradients, x, w).values())
    assert timeline.MATMUL in kinds and not kinds & set(timeline.CONVOLUTIONS)


def test_moves_and_casts_count_only_alone():
    def function(x):
        with jax.named_scope('conv0'):
            return x.T.astype(jnp.bfloat16)

    kinds = kinds_of(function, jnp.ones((4, 300)))
    assert timeline.MOVES in kinds.values() and timeline.ELEMENTWISE not in kinds.values()

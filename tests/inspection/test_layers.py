"""The convolutions of a model as problems, read from the traced program."""

import jax.numpy as jnp
from flax import nnx

from cnn_jax import models, nn
from cnn_jax.inspection import layers


def test_a_training_step_of_the_lecture_cnn():
    make = lambda: models.create(  # noqa: E731
        'lecture_cnn', input_shape=(8, 8, 1), num_classes=10, rngs=nnx.Rngs(0)
    )
    order, counts = layers.problems(nnx.eval_shape(make), (8, 8, 1), 16)
    texts = ['mb16_ic1ih8oc32kh3ph1', 'mb16_ic32ih4oc64kh3ph1']
    assert [str(p) for p in order] == texts
    found = {(str(p), d): n for (p, d), n in counts.items()}
    assert found == {
        (texts[0], 'forward'): 1,
        (texts[0], 'filter_grad'): 1,  # no input gradient: nothing is trained before it
        (texts[1], 'forward'): 1,
        (texts[1], 'input_grad'): 1,
        (texts[1], 'filter_grad'): 1,
    }


class Upsampling(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.down = nn.Conv(2, 4, (3, 3), strides=2, padding=1, rngs=rngs)
        self.up = nn.ConvTranspose(4, 2, (4, 4), strides=2, padding=1, rngs=rngs)

    def __call__(self, x):
        return self.up(jnp.tanh(self.down(x)))


def test_transposed_convolutions_are_told_apart():
    order, counts = layers.problems(nnx.eval_shape(Upsampling), (8, 8, 2), 1)
    assert [p.op for p in order] == ['conv', 'conv_transpose']
    assert str(order[1]) == 'conv_transpose:mb1_ic4ih4oc2kh4sh2ph1'
    directions = {(p.op, d): n for (p, d), n in counts.items()}
    assert directions == {
        ('conv', 'forward'): 1,
        ('conv', 'filter_grad'): 1,
        ('conv_transpose', 'forward'): 1,
        ('conv_transpose', 'input_grad'): 1,
        ('conv_transpose', 'filter_grad'): 1,
    }

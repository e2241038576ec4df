"""Builds one small VGG-like network in several libraries, as their users would, without cnn_jax.

Each function takes (features, dtype, images) and returns `(state, step)`. `step(state, images,
labels)` does one step of SGD and returns `(state, loss)`. `features` lists the output features of
the 3x3 convolutions. A 2x2 max pool follows every second convolution and the last one. Images are
(batch, height, width, channels).
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

Step = Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array]]

CLASSES = 10
RATE = 0.01


def is_pooled(place: int, features: Sequence[int]) -> bool:
    return place % 2 == 1 or place == len(features) - 1


def _loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    logits = logits.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _sgd(loss: Callable[..., jax.Array]) -> Step:
    @jax.jit
    def step(params, images, labels):
        value, grads = jax.value_and_grad(loss)(params, images, labels)
        return jax.tree.map(lambda p, g: p - RATE * g, params, grads), value

    return step


def linen(features: Sequence[int], dtype: Any, images: jax.Array) -> tuple[Any, Step]:
    from flax import linen as nn

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            for place, count in enumerate(features):
                x = nn.relu(nn.Conv(count, (3, 3), dtype=dtype)(x))
                if is_pooled(place, features):
                    x = nn.max_pool(x, (2, 2), (2, 2))
            return nn.Dense(CLASSES, dtype=dtype)(x.reshape(len(x), -1))

    network = Network()
    params = network.init(jax.random.key(0), images)
    return params, _sgd(lambda params, x, y: _loss(network.apply(params, x), y))


def nnx(features: Sequence[int], dtype: Any, images: jax.Array) -> tuple[Any, Step]:
    from flax import nnx

    rngs = nnx.Rngs(0)
    channels = [images.shape[-1], *features]
    convs = [
        nnx.Conv(c, o, (3, 3), dtype=dtype, rngs=rngs)
        for c, o in zip(channels[:-1], features, strict=True)
    ]
    pools = sum(is_pooled(place, features) for place in range(len(features)))
    size = [n // 2**pools for n in images.shape[1:3]]
    dense = nnx.Linear(size[0] * size[1] * features[-1], CLASSES, dtype=dtype, rngs=rngs)
    graph, params = nnx.split(nnx.Dict(convs=nnx.List(convs), dense=dense))

    def loss(params, x, y):
        model = nnx.merge(graph, params)
        for place, conv in enumerate(model.convs):
            x = nnx.relu(conv(x))
            if is_pooled(place, features):
                x = nnx.max_pool(x, (2, 2), (2, 2))
        return _loss(model.dense(x.reshape(len(x), -1)), y)

    return params, _sgd(loss)


def haiku(features: Sequence[int], dtype: Any, images: jax.Array) -> tuple[Any, Step]:
    import haiku as hk

    @hk.without_apply_rng
    @hk.transform
    def network(x):
        x = x.astype(dtype)
        for place, count in enumerate(features):
            x = jax.nn.relu(hk.Conv2D(count, 3)(x))
            if is_pooled(place, features):
                x = hk.max_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), 'VALID')
        return hk.Linear(CLASSES)(x.reshape(len(x), -1))

    params = network.init(jax.random.key(0), images)
    params = jax.tree.map(lambda p: p.astype(dtype), params)
    return params, _sgd(lambda params, x, y: _loss(network.apply(params, x), y))


def equinox(features: Sequence[int], dtype: Any, images: jax.Array) -> tuple[Any, Step]:
    """Uses channels first and one image at a time under vmap, as Equinox expects."""
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), len(features) + 1)
    channels = [images.shape[-1], *features]
    convs = [
        eqx.nn.Conv2d(c, o, 3, padding='SAME', dtype=dtype, key=key)
        for c, o, key in zip(channels[:-1], features, keys[1:], strict=True)
    ]
    pool = eqx.nn.MaxPool2d(2, 2)
    pools = sum(is_pooled(place, features) for place in range(len(features)))
    size = [n // 2**pools for n in images.shape[1:3]]
    dense = eqx.nn.Linear(size[0] * size[1] * features[-1], CLASSES, dtype=dtype, key=keys[0])

    def forward(params, x):
        x = x.transpose(2, 0, 1).astype(dtype)
        for place, conv in enumerate(params[0]):
            x = jax.nn.relu(conv(x))
            if is_pooled(place, features):
                x = pool(x)
        return params[1](x.ravel())

    params, static = eqx.partition((convs, dense), eqx.is_array)

    def loss(params, x, y):
        model = eqx.combine(params, static)
        return _loss(jax.vmap(lambda x: forward(model, x))(x), y)

    return params, _sgd(loss)


def keras(features: Sequence[int], dtype: Any, images: jax.Array) -> tuple[Any, Step]:
    """Uses `train_on_batch` of a compiled model, with the JAX backend."""
    os.environ.setdefault('KERAS_BACKEND', 'jax')
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    half = jnp.dtype(dtype) == jnp.bfloat16
    policy = keras.mixed_precision.DTypePolicy('mixed_bfloat16' if half else 'float32')
    layers: list[Any] = [keras.Input(images.shape[1:])]
    for place, count in enumerate(features):
        layers.append(
            keras.layers.Conv2D(count, 3, padding='same', activation='relu', dtype=policy)
        )
        if is_pooled(place, features):
            layers.append(keras.layers.MaxPooling2D(2, dtype=policy))
    layers += [keras.layers.Flatten(dtype=policy), keras.layers.Dense(CLASSES, dtype=policy)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(RATE), loss=loss)

    def step(state, images, labels):
        return state, model.train_on_batch(np.asarray(images), np.asarray(labels))

    return None, step


LIBRARIES: dict[str, Callable[..., tuple[Any, Step]]] = {
    'linen': linen,
    'nnx': nnx,
    'haiku': haiku,
    'equinox': equinox,
    'keras': keras,
}

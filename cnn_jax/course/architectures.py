"""Exercises of chapter 7, the cost of VGG-16 and Network in Network, and fine-tuning."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnn_jax import nn
from cnn_jax.course.arrays import Array, whole_numbers
from cnn_jax.course.exercise import Case, Exercise
from cnn_jax.inspection import flops
from cnn_jax.models import vgg
from cnn_jax.training import param_groups
from cnn_jax.training.config import TrainConfig

Cost = tuple[int, int]

VGG16 = tuple(
    layer
    for count, features in zip(vgg.STAGES[16], vgg.FEATURES, strict=True)
    for layer in (*[features] * count, 'pool')
)


def _conv_cost(height: int, width: int, window: int, channels: int, features: int) -> Cost:
    return _network_cost((features,), (), (height, width, channels), window)


def _costs(parameters: Callable[..., int], macs: Callable[..., int]) -> Callable[..., Cost]:
    def cost(*layer: int) -> Cost:
        return parameters(*layer), macs(*layer)

    return cost


def _weights(h: int, w: int, k: int, c: int, o: int) -> int:
    return k * k * c * o


conv_cost = Exercise(
    name='conv_cost',
    right=_conv_cost,
    cases=lambda: [(4, 5, 3, 1, 2), (8, 8, 5, 3, 16), (6, 6, 1, 8, 4), (1, 1, 1, 10, 7)],
    verified='parameters and multiply-adds, as cnn_jax.inspection counts them.',
    shape='Two numbers: parameters, multiply-adds.',
    tolerance=1e-9,
    wrong=(
        (
            _costs(_weights, lambda *a: a[0] * a[1] * _weights(*a)),
            'the biases are missing: one per output channel.',
        ),
        (
            _costs(
                lambda *a: _weights(*a) + a[4],
                lambda *a: a[0] * a[1] * (_weights(*a) + a[4]),
            ),
            'the multiply-adds contain the biases, which are added without a multiplication.',
        ),
        (
            _costs(lambda h, w, k, c, o: k * k * o + o, lambda h, w, k, c, o: h * w * k * k * o),
            'the input channels are missing: each output channel has a window of its own on each '
            'input channel.',
        ),
        (
            _costs(
                lambda h, w, k, c, o: k * c * o + o,
                lambda h, w, k, c, o: h * w * k * c * o,
            ),
            'a window has k * k elements, not k.',
        ),
        (
            _costs(lambda *a: _weights(*a) + a[4], _weights),
            'the multiply-adds are those of one place; the window is applied at height * width '
            'places.',
        ),
        (
            _costs(
                lambda *a: _weights(*a) + a[4],
                lambda h, w, k, c, o: (h - k + 1) * (w - k + 1) * k * k * c * o,
            ),
            'without padding there would be h - k + 1 places; here the size is kept, so there '
            'are height * width.',
        ),
        (
            _costs(
                lambda *a: _weights(*a) + a[4],
                lambda *a: 2 * a[0] * a[1] * _weights(*a),
            ),
            'a multiplication with its addition counts as one (a MAC). These are FLOPs, twice as '
            'many.',
        ),
        (
            _costs(
                lambda *a: a[0] * a[1] * (_weights(*a) + a[4]),
                lambda *a: a[0] * a[1] * _weights(*a),
            ),
            'the parameters are multiplied by the places, but all places share them. That is what '
            'a convolution is.',
        ),
    ),
)


def _network_cost(
    layers: Sequence[int | str], dense: Sequence[int], shape: Sequence[int], window: int = 3
) -> Cost:
    """Builds the network without its arrays, and counts."""

    def build() -> nn.Layers:
        rngs = nnx.Rngs(0)
        parts: dict[str, Any] = {}
        height, width, channels = shape
        for i, layer in enumerate(layers):
            if layer == 'pool':
                parts[f'pool{i}'] = nn.MaxPool((2, 2))
                height, width = height // 2, width // 2
                continue
            parts[f'conv{i}'] = nn.Conv(channels, int(layer), (window, window), rngs=rngs)
            channels = int(layer)
        parts['flatten'] = nn.Flatten()
        inputs = height * width * channels
        for i, outputs in enumerate(dense):
            parts[f'dense{i}'] = nnx.Linear(inputs, outputs, rngs=rngs)
            inputs = outputs
        return nn.Layers(parts)

    network = nnx.eval_shape(build)
    return flops.parameters(network), flops.macs(network, shape)


def _counted(
    places: Callable[[int, int], int] = lambda h, w: h * w,
    flat: Callable[[int, int, int], int] = lambda h, w, c: h * w * c,
    pooled: Callable[[int], int] = lambda n: n // 2,
    follow: bool = True,
    bias: int = 1,
    chained: bool = True,
) -> Callable[..., Cost]:
    """Returns network_cost with one detail changed."""

    def cost(layers: Sequence[int | str], dense: Sequence[int], shape: Sequence[int]) -> Cost:
        h, w, c = shape
        parameters = macs = 0
        for layer in layers:
            if layer == 'pool':
                h, w = pooled(h), pooled(w)
                continue
            weights = 9 * c * int(layer)
            parameters += weights + bias * int(layer)
            macs += places(h, w) * weights
            c = int(layer) if follow else c
        inputs = flat(h, w, c)
        for outputs in dense:
            parameters += (inputs + bias) * outputs
            macs += inputs * outputs
            inputs = outputs if chained else inputs
        return parameters, macs

    return cost


network_cost = Exercise(
    name='network_cost',
    right=_network_cost,
    cases=lambda: [
        ((4,), (2,), (4, 4, 1)),
        ((4, 8, 'pool', 8, 'pool'), (16, 16, 5), (8, 12, 3)),
        (VGG16, (4096, 4096, 1000), (224, 224, 3)),
    ],
    verified='two small networks, and VGG-16: 138,357,544 parameters, 15.47 G multiply-adds.',
    shape='Two numbers: parameters, multiply-adds.',
    tolerance=1e-9,
    wrong=(
        (
            _counted(bias=0),
            'the biases are missing: one per output of each layer.',
        ),
        (
            _counted(pooled=lambda n: n),
            'the pools do not change the size: they halve height and width.',
        ),
        (
            _counted(follow=False),
            'every convolution has the channels of the picture. The input channels of a layer '
            'are the features of the one before.',
        ),
        (
            _counted(flat=lambda h, w, c: c),
            'the first dense layer sees one number per feature map. It sees all places: height * '
            'width * channels.',
        ),
        (
            _counted(flat=lambda h, w, c: h * w),
            'the first dense layer sees one feature map. It sees height * width * channels.',
        ),
        (
            _counted(chained=False),
            'every dense layer has the flattened maps as its input. After the first, it is the '
            'outputs of the layer before.',
        ),
        (
            lambda layers, dense, shape: _counted()(layers, (), shape),
            'the dense layers are missing.',
        ),
        (
            _counted(places=lambda h, w: 1),
            'the multiply-adds are those of one place; a convolution is applied at height * width '
            'places.',
        ),
        (
            lambda layers, dense, shape: (
                _counted()(layers, dense, shape)[0],
                _counted(pooled=lambda n: n, flat=lambda h, w, c: 0)(layers, (), shape)[1]
                + _counted()(layers, dense, shape)[1]
                - _counted()(layers, (), shape)[1],
            ),
            'the multiply-adds are those of maps as large as the picture: after a pool there are '
            'a quarter of the places.',
        ),
    ),
)


def _stack(n: int, channels: int, side: Callable[[int], int] = lambda n: 2 * n + 1):
    return side(n), 9 * n * channels**2, side(n) ** 2 * channels**2


stack_of_3x3 = Exercise(
    name='stack_of_3x3',
    right=_stack,
    cases=lambda: [(2, 1), (3, 64), (1, 5)],
    verified='the side of the receptive field, and the weights of both.',
    shape='Three numbers: side, weights of the stack, weights of the one convolution.',
    tolerance=1e-9,
    wrong=(
        (
            lambda n, c: _stack(n, c, lambda n: 3 * n),
            'the windows overlap: each layer after the first adds one pixel on both sides, not '
            'three.',
        ),
        (
            lambda n, c: _stack(n, c, lambda n: 3**n),
            'the sides do not multiply (they would with a stride of 3): each layer after the '
            'first adds one pixel on both sides.',
        ),
        (
            lambda n, c: _stack(n, c, lambda n: n + 2),
            'each layer adds one pixel on both sides, so 2 in total.',
        ),
        (
            lambda n, c: (_stack(n, c)[0], 9 * n * c, _stack(n, c)[0] ** 2 * c),
            'each of the channels has a window on each of the channels: channels ** 2 windows.',
        ),
        (
            lambda n, c: (_stack(n, c)[0], 9 * c**2, _stack(n, c)[2]),
            'these are the weights of one 3 x 3 convolution; the stack has n.',
        ),
        (
            lambda n, c: (*_stack(n, c)[:2], _stack(n, c)[0] * c**2),
            'the one large window has side ** 2 elements.',
        ),
        (
            lambda n, c: (_stack(n, c)[0], 9**n * c**2, _stack(n, c)[2]),
            'the weights of the layers add, they do not multiply.',
        ),
    ),
)


def _nin_head(x: Array, w: Array, b: Array) -> jax.Array:
    conv = nn.Conv(w.shape[0], w.shape[1], (1, 1), rngs=nnx.Rngs(0))
    nnx.update(conv, {'kernel': jnp.asarray(w)[None, None], 'bias': jnp.asarray(b)})
    return nn.GlobalAvgPool()(conv(jnp.asarray(x)))


def _head(pool: Callable[[Array], Array], bias: int = 1) -> Callable:
    return lambda x, w, b: pool(x @ w + bias * b)


nin_head = Exercise(
    name='nin_head',
    right=_nin_head,
    cases=lambda: [
        (whole_numbers(1, 2, 2, 2), whole_numbers(2, 3, seed=1), whole_numbers(3, seed=2)),
        (whole_numbers(3, 4, 5, 4, seed=3), whole_numbers(4, 2, seed=4), whole_numbers(2, seed=5)),
        (whole_numbers(2, 3, 3, 2, seed=6), whole_numbers(2, 2, seed=7), whole_numbers(2, seed=8)),
    ],
    verified='equal to nn.Conv with a window of 1 x 1 and nn.GlobalAvgPool, for maps of any size.',
    shape='One row per example, one column per class.',
    wrong=(
        (
            _head(lambda y: y.sum((1, 2))),
            'this is the sum over the places, which grows with the picture: take the mean.',
        ),
        (
            _head(lambda y: y.max((1, 2))),
            'this is the largest answer of all places; wanted is the mean.',
        ),
        (
            _head(lambda y: y.mean((1, 2)), bias=0),
            'the bias is missing.',
        ),
        (
            _head(lambda y: y),
            'these are the maps of the classes. Their mean over rows and columns is missing.',
        ),
        (
            _head(lambda y: y.mean((0, 1, 2))),
            'the examples are averaged, too: only axes 1 and 2.',
        ),
        (
            _head(lambda y: y.mean(1)),
            'only the rows are averaged: axes 1 and 2.',
        ),
        (
            _head(lambda y: np.maximum(y, 0).mean((1, 2))),
            'negative answers are set to 0 by a ReLU. Evidence against a class counts, too, so '
            'none follows here.',
        ),
        (
            _head(lambda y: np.asarray(jax.nn.softmax(y.mean((1, 2))))),
            'these are probabilities. The cross-entropy contains the softmax: return the logits.',
        ),
    ),
)


def _last(names: Sequence[str]) -> str:
    return names[-1].rpartition('/')[0] + '/'


def _frozen(names: Sequence[str]) -> str:
    return ','.join(name for name in names if not name.startswith(_last(names)))


def _kept(function: Callable, case: Case) -> Array | None:
    """Returns for each parameter 1 if the text that `function` returned freezes it."""
    if (text := function(*case)) is None:
        return None
    if not isinstance(text, str):
        raise TypeError(f'frozen returned a {type(text).__name__}; wanted is a text')
    names = case[0]
    patterns = TrainConfig(freeze=text).read_freeze()
    kept = {name for p in patterns for name in param_groups.matching('freeze', p, names)}
    return np.array([name in kept for name in names])


frozen = Exercise(
    name='frozen',
    right=_frozen,
    cases=lambda: [
        (('conv/kernel', 'conv/bias', 'fc/kernel', 'fc/bias'),),
        (
            tuple(
                f'{layer}/{name}'
                for layer in ('conv1', 'conv2', 'dense', 'logits')
                for name in ('kernel', 'bias')
            ),
        ),
        (('stem/kernel', 'norm/scale', 'norm/bias', 'dense1/kernel', 'dense2/kernel'),),
    ],
    verified='every parameter but those of the last layer keeps its value.',
    shape='For each parameter, whether it is frozen.',
    observe=_kept,
    wrong=(
        (
            lambda names: _last(names) + '*',
            'this freezes the last layer and trains the others.',
        ),
        (
            lambda names: '*',
            'this freezes every parameter: nothing is left to train.',
        ),
        (
            lambda names: ','.join(names[:-1]),
            'all but the last parameter are frozen. A layer has several, such as kernel and bias: '
            'keep all of the last layer free.',
        ),
        (
            lambda names: ','.join(name for name in names if name.startswith('conv')),
            'only layers whose name begins with conv are frozen. Dense layers and norms before '
            'the last layer are to keep their values, too.',
        ),
        (
            lambda names: ','.join(
                name
                for name in names
                if name.endswith('kernel') and not name.startswith(_last(names))
            ),
            'only kernels are frozen: biases and scales would go on learning.',
        ),
        (
            lambda names: '',
            'nothing is frozen.',
        ),
        (
            lambda names: names[0].rpartition('/')[0] + '/*',
            'only the first layer is frozen.',
        ),
    ),
)

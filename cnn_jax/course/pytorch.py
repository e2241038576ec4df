"""Exercises of chapter 6, the same network in PyTorch. They need no PyTorch."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cnn_jax.course.arrays import Array, whole_numbers
from cnn_jax.course.exercise import Exercise
from cnn_jax.ops.spec import resolve_padding

conv_kernel = Exercise(
    name='conv_kernel',
    right=lambda w: np.transpose(w, (3, 2, 0, 1)),
    cases=lambda: [(whole_numbers(2, 3, 1, 2),), (whole_numbers(3, 3, 2, 2, seed=1),)],
    verified='output channels, input channels, rows, columns.',
    shape='PyTorch orders a kernel as (out, in, height, width).',
    wrong=(
        (
            lambda w: np.transpose(w, (2, 3, 0, 1)),
            'input and output channels are exchanged: the output comes first.',
        ),
        (
            lambda w: np.transpose(w, (3, 2, 1, 0)),
            'rows and columns of the window are exchanged, too (w.T reverses all axes). With '
            'square windows no shape tells.',
        ),
        (
            lambda w: np.reshape(w, (w.shape[3], w.shape[2], w.shape[0], w.shape[1])),
            'reshape keeps the numbers in their order and cuts them anew. Axes are exchanged by '
            'transpose.',
        ),
        (
            lambda w: np.transpose(w, (3, 2, 0, 1))[..., ::-1, ::-1],
            'the window is flipped. PyTorch does not flip either, so it stays.',
        ),
        (
            lambda w: np.transpose(w, (3, 0, 1, 2)),
            'the input channels are last; in PyTorch they follow the output channels.',
        ),
        (
            lambda w: w,
            'this is the kernel as it was: (height, width, in, out).',
        ),
    ),
)


def _dense_kernel(w: Array, maps: Sequence[int]) -> Array:
    return np.reshape(w, (*maps, w.shape[-1])).transpose(3, 2, 0, 1).reshape(w.shape[-1], -1)


dense_kernel = Exercise(
    name='dense_kernel',
    right=_dense_kernel,
    cases=lambda: [
        (whole_numbers(6, 2), (1, 2, 3)),
        (whole_numbers(12, 3, seed=1), (2, 3, 2)),
        (whole_numbers(4, 3, seed=2), (1, 1, 4)),
        (whole_numbers(12, 2, seed=3), (2, 2, 3)),
    ],
    verified='the rows follow the order in which PyTorch flattens feature maps.',
    shape='PyTorch orders a dense kernel as (out, in).',
    wrong=(
        (
            lambda w, maps: w.T,
            'the inputs are in the order row, column, channel. PyTorch flattens (channels, '
            'height, width), so its inputs are in the order channel, row, column.',
        ),
        (
            lambda w, maps: (
                np.reshape(w, (maps[2], maps[0], maps[1], -1))
                .transpose(3, 1, 2, 0)
                .reshape(w.shape[-1], -1)
            ),
            'this is the way back, from PyTorch to JAX: reshape to (height, width, channels, '
            'out), the order that w has.',
        ),
        (
            lambda w, maps: (
                np.reshape(w, (*maps, -1)).transpose(3, 2, 1, 0).reshape(w.shape[-1], -1)
            ),
            'rows and columns of the maps are exchanged: channel, row, column.',
        ),
        (
            lambda w, maps: _dense_kernel(w, maps).T,
            'the inputs are in the right order, but PyTorch wants (out, in).',
        ),
        (
            lambda w, maps: np.reshape(w, (w.shape[-1], -1)),
            'reshape to (out, in) keeps the numbers in their order and cuts them anew. Axes are '
            'exchanged by transpose.',
        ),
        (
            lambda w, maps: w,
            'this is the kernel as it was: (in, out).',
        ),
    ),
)


def _torch_padding(size: Sequence[int], window: Sequence[int], stride: int) -> tuple[int, ...]:
    rows, columns = resolve_padding('SAME', tuple(size), tuple(window), (stride, stride))
    return (*columns, *rows)


def _padding(low_high: Callable[[int, int, int], tuple[int, int]]) -> Callable:
    """Returns a torch_padding that pads an axis by low_high(n, window, stride)."""

    def padding(size: Sequence[int], window: Sequence[int], stride: int) -> tuple[int, ...]:
        rows, columns = (low_high(n, k, stride) for n, k in zip(size, window, strict=True))
        return (*columns, *rows)

    return padding


def _total(n: int, k: int, stride: int) -> int:
    return max((-(-n // stride) - 1) * stride + k - n, 0)


torch_padding = Exercise(
    name='torch_padding',
    right=_torch_padding,
    cases=lambda: [
        ((8, 7), (3, 3), 2),
        ((8, 6), (5, 3), 1),
        ((9, 8), (2, 5), 2),
        ((7, 9), (1, 2), 3),
    ],
    verified="the zeros of 'SAME', in the order of F.pad.",
    shape='Four numbers: left, right, top, bottom.',
    wrong=(
        (
            lambda size, window, stride: sum(
                resolve_padding('SAME', tuple(size), tuple(window), (stride, stride)), ()
            ),
            'these are top, bottom, left, right. F.pad begins with the last axis: left, right, '
            'top, bottom.',
        ),
        (
            _padding(lambda n, k, s: (k // 2, k // 2)),
            "these are k // 2 zeros on every side, PyTorch's habit. 'SAME' adds only as many as "
            'the last window needs, which depends on size and stride.',
        ),
        (
            _padding(lambda n, k, s: ((k - 1) // 2, k // 2)),
            "these are the zeros of stride 1. With a stride, 'SAME' needs fewer: the last of the "
            'ceil(n / stride) windows begins at (ceil(n / stride) - 1) stride.',
        ),
        (
            _padding(lambda n, k, s: (-(-_total(n, k, s) // 2), _total(n, k, s) // 2)),
            'the odd zero comes first. It belongs to the end: right and bottom.',
        ),
        (
            _padding(lambda n, k, s: (_total(n, k, s) // 2, _total(n, k, s) // 2)),
            'where the number of zeros is odd, one is missing: right = total - left.',
        ),
        (
            _padding(lambda n, k, s: (0, _total(n, k, s))),
            'all zeros are at the end. Half of them (rounded down) come first.',
        ),
        (
            _padding(
                lambda n, k, s: (
                    (total := (-(-n // s) - 1) * s + k - n) // 2,
                    total - total // 2,
                )
            ),
            'a number is negative, so F.pad cuts pixels off: a stride larger than the window '
            'needs no zeros. max(..., 0).',
        ),
    ),
)


def _batch_norm(x: Array, mean: Array, var: Array, momentum: float, eps: float):
    norm = nnx.BatchNorm(x.shape[-1], momentum=momentum, epsilon=eps, rngs=nnx.Rngs(0))
    norm.mean[...], norm.var[...] = jnp.asarray(mean), jnp.asarray(var)
    return norm(jnp.asarray(x)), norm.mean[...], norm.var[...]


def _norm(
    momentum: Callable[[float], float] = lambda m: m,
    count: Callable[[int], int] = lambda n: n,
    root: Callable[[Array, float], Array] = lambda var, eps: np.sqrt(var + eps),
    axes: tuple[int, ...] = (0, 1, 2),
    count_of_y: Callable[[int], int] = lambda n: n,
) -> Callable:
    """Returns a batch norm with one detail changed."""

    def norm(x: Array, mean: Array, var: Array, m: float, eps: float):
        squares = ((x - x.mean(axes, keepdims=True)) ** 2).sum(axes)
        n = np.prod([x.shape[axis] for axis in axes])
        y = (x - x.mean(axes, keepdims=True)) / root(squares / count_of_y(n), eps)
        old, m = momentum(m), momentum(m)
        return (
            y,
            old * mean + (1 - m) * x.mean(axes),
            old * var + (1 - m) * squares / count(n),
        )

    return norm


def _by_averages(x: Array, mean: Array, var: Array, momentum: float, eps: float):
    _, mean, var = _batch_norm(x, mean, var, momentum, eps)
    return (x - mean) / np.sqrt(var + eps), mean, var


def _by_old_averages(x: Array, mean: Array, var: Array, momentum: float, eps: float):
    return (x - mean) / np.sqrt(var + eps), *_batch_norm(x, mean, var, momentum, eps)[1:]


batch_norm = Exercise(
    name='batch_norm',
    right=_batch_norm,
    cases=lambda: [
        (
            whole_numbers(2, 2, 1, 1),
            np.array([1], np.float32),
            np.array([2], np.float32),
            0.9,
            1e-5,
        ),
        (
            whole_numbers(3, 2, 2, 2, seed=1),
            np.array([1, -2], np.float32),
            np.array([4, 1], np.float32),
            0.75,
            0.5,
        ),
    ],
    verified='equal to nnx.BatchNorm in training: the result and both averages.',
    shape='The result has the shape of x, the averages have one number per channel.',
    wrong=(
        (
            _norm(momentum=lambda m: 1 - m),
            "momentum is the weight of the new batch, PyTorch's convention. Here it is the "
            "weight of the old average: Flax's 0.9 is PyTorch's 0.1.",
        ),
        (
            _norm(count=lambda n: n - 1),
            "the running variance divides by n - 1, as PyTorch's does. Flax divides by n.",
        ),
        (
            _norm(count=lambda n: n - 1, count_of_y=lambda n: n - 1),
            'the variance divides by n - 1. In both frameworks the batch is normalised with n.',
        ),
        (
            _norm(root=lambda var, eps: np.sqrt(var) + eps),
            'eps is added to the standard deviation; it belongs below the root.',
        ),
        (
            _norm(root=lambda var, eps: var + eps),
            'this divides by the variance: take the root.',
        ),
        (
            _norm(axes=(0,)),
            'mean and variance are those of each position. All positions share the statistics '
            'of a channel: axes 0, 1 and 2.',
        ),
        (
            _by_averages,
            'the batch is normalised by the running averages. In training it is normalised by '
            'its own mean and variance; the averages are for evaluation.',
        ),
        (
            _by_old_averages,
            'this normalises by the averages, as in evaluation. In training it is the mean and '
            'variance of the batch.',
        ),
    ),
)


def _sgd(
    w: float,
    gradients: Sequence[float],
    rates: Sequence[float],
    momentum: float,
    decay: float,
    nesterov: bool,
) -> Array:
    """Takes optax's steps; PyTorch's are the same."""
    values = np.float32(w)
    optimizer = optax.chain(
        optax.add_decayed_weights(decay), optax.trace(momentum, nesterov=nesterov)
    )
    state = optimizer.init(values)
    for gradient, rate in zip(gradients, rates, strict=True):
        update, state = optimizer.update(np.float32(gradient), state, values)
        values = values - rate * update
    return np.asarray(values)


def _rule(step: Callable) -> Callable:
    """Returns SGD in which step(w, v, g, rate, m, decay, nesterov) returns the new w and v."""

    def sgd(w, gradients, rates, momentum, decay, nesterov):
        v = 0.0
        for g, rate in zip(gradients, rates, strict=True):
            w, v = step(w, v, g, rate, momentum, decay, nesterov)
        return w

    return sgd


def _rate_inside(w, v, g, rate, m, decay, nesterov):
    g = g + decay * w
    v = m * v + rate * g
    return w - (rate * g + m * v if nesterov else v), v


def _dampened(w, v, g, rate, m, decay, nesterov):
    g = g + decay * w
    v = m * v + (1 - m) * g
    return w - rate * (g + m * v if nesterov else v), v


def _decoupled(w, v, g, rate, m, decay, nesterov):
    v = m * v + g
    return w - rate * (g + m * v if nesterov else v) - rate * decay * w, v


def _ascent(w, v, g, rate, m, decay, nesterov):
    g = g + decay * w
    v = m * v + g
    return w + rate * (g + m * v if nesterov else v), v


sgd = Exercise(
    name='sgd',
    right=_sgd,
    cases=lambda: [
        (1.0, (1.0, 2.0), (0.5, 0.5), 0.5, 0.0, False),
        (2.0, (1.0, -2.0, 3.0), (0.5, 0.25, 0.125), 0.5, 0.0, False),
        (2.0, (1.0, -2.0, 3.0), (0.5, 0.25, 0.125), 0.5, 0.0, True),
        (4.0, (1.0, 2.0, -1.0), (0.5, 0.5, 0.25), 0.75, 0.125, False),
        (4.0, (1.0, 2.0, -1.0), (0.5, 0.5, 0.25), 0.75, 0.125, True),
    ],
    verified="optax's steps and PyTorch's, with momentum, Nesterov, weight decay and a rate "
    'that changes.',
    shape='One number, the weight after the last step.',
    wrong=(
        (
            _rule(_rate_inside),
            'the velocity contains the learning rate, as in Keras. With a constant rate there is '
            'no difference; here the velocity is a sum of gradients, and the newest rate '
            'multiplies all of it.',
        ),
        (
            _rule(_dampened),
            'the new gradient is multiplied by 1 - momentum (PyTorch: dampening). Here the '
            'velocity is momentum * velocity + gradient.',
        ),
        (
            _rule(_decoupled),
            'the weight decay goes past the velocity, as in AdamW. In SGD it is a part of the '
            'gradient: g + decay * w comes first.',
        ),
        (
            lambda w, g, rates, m, decay, nesterov: _sgd(w, g, rates, m, decay, False),
            'with nesterov the step is that of plain momentum. It should be g + momentum * v with '
            'the new v; with the old one, that is v itself.',
        ),
        (
            lambda w, g, rates, m, decay, nesterov: _sgd(w, g, rates, m, decay, True),
            "every step is Nesterov's: without nesterov the step is v.",
        ),
        (
            lambda w, g, rates, m, decay, nesterov: _sgd(w, g, rates, 0.0, decay, False),
            'there is no momentum: the velocity has to survive from step to step.',
        ),
        (
            lambda w, g, rates, m, decay, nesterov: _sgd(w, g, rates, m, 0.0, nesterov),
            'the weight decay is missing: add decay * w to the gradient.',
        ),
        (
            lambda w, g, rates, m, decay, nesterov: _sgd(w, g, rates, m, -decay, nesterov),
            'the weight decay has the wrong sign: weights should shrink.',
        ),
        (
            _rule(_ascent),
            'the step goes up: subtract it.',
        ),
    ),
)


def to_torch(name: str, value: jax.Array, maps: Sequence[int] = ()) -> Array:
    """Returns a parameter in PyTorch's layout.

    Args:
        name: its name; a name that ends in 'kernel' is that of a kernel.
        value: (height, width, in, out) or (in, out) for a kernel; (n,) for others.
        maps: (height, width, channels) of the maps that are flattened before a dense layer.
    """
    array = np.array(value)
    if not name.endswith('kernel'):
        return array
    kernel = (
        conv_kernel.right(array)
        if array.ndim == 4
        else dense_kernel.right(array, maps or (1, 1, len(array)))
    )
    return np.ascontiguousarray(kernel)

"""Times a training step in JAX: `python -m cnn_jax.bench.steps.jax_side`, with a task on stdin.

The task is JSON with `network` (see `networks.Network`), `dtype`, `library` and `seconds` (to spend
on steps). The library is 'cnn_jax' (its convolutions and pools), 'flax' (those of Flax) or
'installed' (those of Flax after `cnn_jax.install()`). The result on stdout is JSON with `losses` of
the first steps, `compile_s`, `step_s` (a list), `parameters` (their number), `memory_bytes` (peak
of the process) and `device_bytes` (peak on the device; None if it does not count). If the task has
`traced_steps`, so many more steps run under the profiler, and `parts_s` lists for each its seconds
by kind of work (`timeline`).
"""

import functools
import json
import math
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import cnn_jax
from cnn_jax import models, nn
from cnn_jax.bench.steps import jax_trace
from cnn_jax.bench.steps.networks import Network
from cnn_jax.bench.steps.weights import random_weights
from cnn_jax.training.state import FunctionalModel

# Number of losses that are reported, and of steps before those that are timed: caches are cold, and
# memory that later steps use again is new.
COMPARED = 3
FEWEST = 3  # steps that are timed


class Join(nnx.Module):
    """Applies several branches to the same input and joins their results with a function."""

    def __init__(self, branches, join):
        self.count, self.join = len(branches), join
        for place, branch in enumerate(branches):
            setattr(self, f'branch{place}', branch)

    def __call__(self, x):
        return self.join([getattr(self, f'branch{i}')(x) for i in range(self.count)])


def _halves(window):
    return [((k - 1) // 2, (k - 1) // 2) for k in window]


def _sizes(size, window, strides):
    return tuple(
        (n + 2 * ((k - 1) // 2) - k) // s + 1 for n, k, s in zip(size, window, strides, strict=True)
    )


def _conv(args, shape, library, dtype, rngs):
    features, window, strides, groups, bias = args
    cls = nn.Conv if library == 'cnn_jax' else nnx.Conv
    layer = cls(
        shape[-1], features, tuple(window), tuple(strides), padding=_halves(window),
        feature_group_count=groups, use_bias=bias, dtype=dtype, rngs=rngs,
    )  # fmt: skip
    return layer, (*_sizes(shape[:-1], window, strides), features)


def _deconv(args, shape, library, dtype, rngs):
    features, window, strides = args
    size = tuple((n - 1) * s + k - 2 for n, s, k in zip(shape[:-1], strides, window, strict=True))
    # lax pads the dilated input, by window - 1 - padding.
    pads = [(k - 2, k - 2) for k in window]
    cls = functools.partial(nn.ConvTranspose, convention='lax')
    cls = cls if library == 'cnn_jax' else nnx.ConvTranspose
    layer = cls(
        shape[-1], features, tuple(window), tuple(strides), padding=pads, dtype=dtype, rngs=rngs
    )
    return layer, (*size, features)


def _max_pool(args, shape, library, dtype, rngs):
    (window,) = args
    size = tuple(n // k for n, k in zip(shape[:-1], window, strict=True))
    window = tuple(window)
    if library == 'cnn_jax':
        return nn.MaxPool(window, window), (*size, shape[-1])
    return functools.partial(nnx.max_pool, window_shape=window, strides=window), (*size, shape[-1])


def _embed(args, shape, library, dtype, rngs):
    tokens, features = args
    return nnx.Embed(tokens, features, dtype=dtype, rngs=rngs), (*shape, features)


def _dense(args, shape, library, dtype, rngs):
    options = {'dot_general': cnn_jax.dot_general} if library == 'cnn_jax' else {}
    layer = nnx.Linear(shape[-1], args[0], dtype=dtype, rngs=rngs, **options)
    return layer, (*shape[:-1], args[0])


def _batch_norm(args, shape, library, dtype, rngs):
    cls = nn.BatchNorm if library == 'cnn_jax' else nnx.BatchNorm
    return cls(shape[-1], momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs), shape


def _residual(args, shape, *rest):
    (branch, out), (shortcut, _) = (build(layers, shape, *rest) for layers in args)
    return Join([branch, shortcut], sum), out


def _parallel(args, shape, *rest):
    made = [build(layers, shape, *rest) for layers in args[0]]
    join = functools.partial(jnp.concatenate, axis=-1)
    return Join([branch for branch, _ in made], join), (sum(out[-1] for _, out in made),)


def _model(args, shape, library, dtype, rngs):
    # Compiling the initialisation of a large model takes longer than all the steps that are timed.
    name, classes, _ = args
    options = {'input_shape': shape, 'num_classes': classes, 'dtype': dtype}
    net = FunctionalModel(lambda rngs: models.create(name, rngs=rngs, **options))
    weights = random_weights(
        {at: leaf.shape for at, leaf in (net.params | net.model_state).items()}
    )
    weights = {at: jnp.asarray(array) for at, array in weights.items()}
    model = net.merge(weights, weights, rngs.dropout())
    model.train()
    return model, (classes,)


def _over_size(function):
    return lambda x: function(x, axis=tuple(range(1, x.ndim - 1)))


def _plain(function, shape_of):
    return lambda args, shape, *rest: (function, shape_of(shape))


MAKERS = {
    'conv': _conv,
    'deconv': _deconv,
    'max_pool': _max_pool,
    'embed': _embed,
    'dense': _dense,
    'batch_norm': _batch_norm,
    'residual': _residual,
    'parallel': _parallel,
    'model': _model,
    'relu': _plain(nnx.relu, lambda shape: shape),
    'global_avg': _plain(_over_size(jnp.mean), lambda shape: shape[-1:]),
    'global_max': _plain(_over_size(jnp.max), lambda shape: shape[-1:]),
    'flatten': _plain(lambda x: x.reshape(len(x), -1), lambda shape: (math.prod(shape),)),
    'unflatten': lambda args, shape, *rest: (
        lambda x: x.reshape(len(x), *args[0]),
        tuple(args[0]),
    ),
}


def build(layers, shape, library, dtype, rngs):
    """Returns a module of the layers, and the shape of its output for one example."""
    made = {}
    for place, (kind, *args) in enumerate(layers):
        made[f'{kind}{place}'], shape = MAKERS[kind](args, shape, library, dtype, rngs)
    return nn.Layers(made), shape


def make_step(network, dtype, library, seed=0):
    """Returns the state and a jitted step of SGD with momentum.

    The step maps (state, inputs, targets) to (state, loss).
    """
    rngs = nnx.Rngs(seed)
    model, _ = build(network.layers, network.inputs[1:], library, jnp.dtype(dtype), rngs)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.sgd(0.01, momentum=0.9)

    def loss_of(params, rest, inputs, targets):
        model = nnx.merge(graph, params, rest, copy=True)
        outputs = model(inputs)
        with jax.named_scope('loss'):
            outputs = outputs.astype(jnp.float32)
            if network.classes:
                loss = optax.softmax_cross_entropy_with_integer_labels(outputs, targets).mean()
            else:
                loss = jnp.mean((outputs - targets) ** 2)
        return loss, nnx.state(model, nnx.Not(nnx.Param))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, inputs, targets):
        params, rest, opt = state
        (loss, rest), grads = jax.value_and_grad(loss_of, has_aux=True)(
            params, rest, inputs, targets
        )
        with jax.named_scope('optimizer'):
            updates, opt = optimizer.update(grads, opt, params)
            params = optax.apply_updates(params, updates)
        return (params, rest, opt), loss

    return (params, rest, optimizer.init(params)), step


def batch(network, seed=0):
    """Returns inputs and targets as NumPy arrays; `torch_side` generates the same values."""
    rng = np.random.default_rng(seed)
    count, *shape = network.inputs
    if network.tokens:
        inputs = rng.integers(1, network.tokens, network.inputs, dtype=np.int32)
    else:
        inputs = rng.standard_normal(network.inputs, np.float32)
    if network.classes:
        size = (count, *shape[:-1]) if network.is_dense else count
        return inputs, rng.integers(0, network.classes, size, dtype=np.int32)
    return inputs, rng.standard_normal((count, 64, 64, 3), np.float32)


def run(task):
    """Runs a task and returns its result; see the module docstring."""
    network = Network(**task['network'])
    if task['library'] == 'installed':
        cnn_jax.install()
    state, step = make_step(network, task['dtype'], task['library'])
    inputs, targets = map(jnp.asarray, batch(network))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state[0]))
    start = time.perf_counter()
    compiled = step.lower(state, inputs, targets).compile()
    compile_s, times = time.perf_counter() - start, []

    def run_step():
        nonlocal state
        state, loss = compiled(state, inputs, targets)
        return float(loss)

    losses = [run_step() for _ in range(COMPARED)]
    while len(times) < FEWEST or sum(times) < task['seconds']:
        start = time.perf_counter()
        run_step()
        times.append(time.perf_counter() - start)
    result = {
        'losses': losses,
        'compile_s': compile_s,
        'step_s': times,
        'parameters': parameters,
        'memory_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        'device_bytes': (jax.devices()[0].memory_stats() or {}).get('peak_bytes_in_use'),
    }
    if count := task.get('traced_steps'):
        result['parts_s'] = jax_trace.trace(run_step, count, compiled.as_text())
    return result


if __name__ == '__main__':
    json.dump(run(json.load(sys.stdin)), sys.stdout)

"""Compares the training step with hand-written formulas, and with itself in every arrangement."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnn_jax.training.devices import Devices
from cnn_jax.training.objectives import Classification
from cnn_jax.training.state import FunctionalModel, init_state
from cnn_jax.training.step import make_step
from tests.training import tiny

# Sums in a different order differ by a few units in the last place of numbers around 1, over some
# steps.
CLOSE = {'rtol': 2e-5, 'atol': 2e-6}


@functools.cache
def plain():
    return tiny.run(devices=jax.devices()[:1])


def assert_same_run(found, wanted, **tolerance):
    for name in ('loss', 'accuracy', 'grad_norm'):
        np.testing.assert_allclose(found[1][name], wanted[1][name], **tolerance)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found[0].params,
        wanted[0].params,
    )  # fmt: skip


def test_one_step_is_the_formula():
    """Computes cross entropy and SGD by hand, and the gradient with nnx.grad on the module."""
    dataset = tiny.tiny_dataset()
    model = tiny.Tiny(nnx.Rngs(0))
    batch = dataset.splits['train'].take(slice(0, 16))
    x, y = jnp.asarray(dataset.normalize(batch.inputs)), batch.labels

    def loss_of(model):
        logits = model(x)
        return -jnp.mean(jax.nn.log_softmax(logits)[np.arange(16), y])

    loss, grads = nnx.value_and_grad(loss_of)(model)
    wanted = {
        'conv/kernel': model.conv.kernel[...] - 0.1 * grads.conv.kernel[...],
        'out/bias': model.out.bias[...] - 0.1 * grads.out.bias[...],
    }
    state, metrics = tiny.run(1, optimizer=optax.sgd(0.1), devices=jax.devices()[:1])
    np.testing.assert_allclose(metrics['loss'], [loss], rtol=1e-6)
    for name, value in wanted.items():
        np.testing.assert_allclose(state.params[name], value, rtol=1e-5, atol=1e-7)
    norm = np.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics['grad_norm'], [norm], rtol=1e-5)


@pytest.mark.parametrize(
    'arrangement',
    [
        {'devices': 8},
        {'devices': 8, 'parallel': 'pmap'},
        {'devices': 1, 'steps_per_call': 2},
        {'devices': 8, 'steps_per_call': 2, 'resident': False},
        {'devices': 2, 'resident': False, 'parallel': 'pmap'},
        {'devices': 1, 'accumulate': 4, 'unroll': True},
        {'devices': 2, 'accumulate': 2, 'parallel': 'pmap'},
        {'devices': 1, 'remat': True},
    ],
    ids=str,
)
def test_arrangements_give_the_same_numbers(arrangement):
    options = dict(arrangement)
    devices = jax.devices()[: options.pop('devices')]
    assert len(devices) == arrangement['devices']
    assert_same_run(tiny.run(devices=devices, **options), plain(), **CLOSE)


def test_same_seed_same_bits():
    model = functools.partial(tiny.Tiny, norm=True, dropout=0.5)
    one, two = (tiny.run(model=model, seed=3, devices=jax.devices()[:1]) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_calls_of_any_length_give_the_same_bits():
    """The result does not depend on where a call begins or ends, for example after resuming."""
    at_once = tiny.run(6, steps_per_call=6, devices=jax.devices()[:1])
    in_parts = tiny.run(6, steps_per_call=6, counts=(1, 3, 2), devices=jax.devices()[:1])
    jax.tree.map(np.testing.assert_array_equal, at_once, in_parts)


def test_dropout_changes_with_the_step_and_the_seed():
    model = functools.partial(tiny.Tiny, dropout=0.5)
    still = optax.sgd(0.0)
    losses = [
        tiny.run(6, 48, model=model, optimizer=still, seed=seed, devices=jax.devices()[:1])[1][
            'loss'
        ]
        for seed in (0, 1)
    ]
    # Weights and data stay the same, so only the dropout masks make a difference.
    assert len(set(np.concatenate(losses).tolist())) == 12


def batch_statistics(arrangement):
    model = functools.partial(tiny.Tiny, norm=True)
    return tiny.run(1, model=model, devices=jax.devices()[:4], **arrangement)


def test_batch_norm_is_global_under_jit_and_per_device_under_pmap():
    model = functools.partial(tiny.Tiny, norm=True)
    whole = tiny.run(1, model=model, devices=jax.devices()[:1])
    np.testing.assert_allclose(batch_statistics({})[1]['loss'], whole[1]['loss'], **CLOSE)

    # Per device: the mean of the losses of four runs on a quarter of the batch each.
    dataset, net = tiny.tiny_dataset(), FunctionalModel(model)
    params, model_state = net.init(0)
    parts = dataset.normalize(dataset.splits['train'].inputs[:16]).reshape(4, 4, 5, 5, 1)
    labels = dataset.splits['train'].labels[:16].reshape(4, 4)
    losses, means = [], []
    for x, y in zip(parts, labels, strict=True):
        logits, after = net.train(params, model_state, jax.random.key(0), jnp.asarray(x))
        losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, y).mean())
        means.append(after['norm/mean'])
    mapped = batch_statistics({'parallel': 'pmap'})
    np.testing.assert_allclose(mapped[1]['loss'], [np.mean(losses)], **CLOSE)
    np.testing.assert_allclose(mapped[0].model_state['norm/mean'], np.mean(means, 0), **CLOSE)
    assert abs(mapped[1]['loss'] - whole[1]['loss']) > 1e-3


def test_groups_of_batch_norm_are_those_of_pmap():
    """Groups of the 4 examples of a device under jit, on any number of devices."""
    per_device = batch_statistics({'parallel': 'pmap'})
    grouped = functools.partial(tiny.Tiny, norm=True, norm_group=4)
    for count in (1, 2, 4):
        found = tiny.run(1, model=grouped, devices=jax.devices()[:count])
        assert_same_run(found, per_device, **CLOSE)
        for name, value in per_device[0].model_state.items():
            np.testing.assert_allclose(found[0].model_state[name], value, **CLOSE)


def test_label_smoothing_and_average():
    """Compares the loss with its formula, and the average with e = d e + (1 - d) p."""
    state, metrics = tiny.run(
        2, 48, optimizer=optax.sgd(0.0), label_smoothing=0.3, ema=0.9, devices=jax.devices()[:1]
    )
    dataset, net = tiny.tiny_dataset(), FunctionalModel(tiny.Tiny)
    params, model_state = net.init(0)
    train = dataset.splits['train']
    logits = net.predict(params, model_state, jnp.asarray(dataset.normalize(train.inputs)))
    log = jax.nn.log_softmax(logits)
    right, all_ = log[np.arange(48), train.labels].mean(), log.mean()
    np.testing.assert_allclose(metrics['loss'][0], -(0.7 * right + 0.3 * all_), rtol=1e-5)
    for name, value in state.params.items():  # the average of equal values
        np.testing.assert_allclose(state.ema[name], value, rtol=1e-6)

    moved, _ = tiny.run(1, optimizer=optax.sgd(0.5), ema=0.9, devices=jax.devices()[:1])
    for name, start in params.items():
        wanted = 0.9 * np.asarray(start) + 0.1 * np.asarray(moved.params[name])
        np.testing.assert_allclose(moved.ema[name], wanted, rtol=1e-6, atol=1e-7)


def test_remat_keeps_less():
    """The backward pass does not receive the results of normalisation and ReLU."""
    net = FunctionalModel(functools.partial(tiny.Tiny, norm=True))
    optimizer = optax.sgd(0.1)
    state = init_state(net, optimizer, 0)
    batch = {'inputs': jnp.ones((16, 5, 5, 1)), 'labels': jnp.zeros(16, jnp.int32)}

    def operations(remat):
        step = make_step(net, optimizer, lambda _: 0.1, Classification(3), remat=remat)
        return str(jax.make_jaxpr(step)(state, batch))

    assert 'remat' in operations(True) or 'checkpoint' in operations(True)
    assert 'remat' not in operations(False) and 'checkpoint' not in operations(False)
    # The convolution is not recomputed: one forward pass, one filter gradient, no input gradient.
    assert operations(True).count('conv_general_dilated[') == 2


def test_no_hidden_transfers():
    """All transfers to the devices are explicit."""
    with jax.transfer_guard('disallow'):
        state, _ = tiny.run(2, steps_per_call=2)
    assert int(state.step) == 2


def test_batch_must_divide_by_the_devices():
    with pytest.raises(ValueError, match='batch_size=12: must be a multiple of the 8 devices'):
        Devices.all().check_batch(12)
    with pytest.raises(ValueError, match='accumulate=3, for example 48'):
        Devices.all().check_batch(50, 3)


def test_the_average_follows_faster_at_first():
    """The decay is 1/10 after the first step, 2/11 after the second, and never above `ema`."""
    for ema, decays in ((0.999, (0.1, 2 / 11)), (0.15, (0.1, 0.15))):
        states = [
            tiny.run(n, optimizer=optax.sgd(0.5), ema=ema, ema_warmup=True)[0] for n in (1, 2)
        ]
        start, _ = FunctionalModel(tiny.Tiny).init(0)
        for name, first in start.items():
            average = np.asarray(first, np.float64)
            for state, decay in zip(states, decays, strict=True):
                average = decay * average + (1 - decay) * np.asarray(state.params[name])
            np.testing.assert_allclose(states[1].ema[name], average, rtol=1e-5, atol=1e-6)

"""Compares the losses and steps of generative models with independently computed formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.stats
from flax import nnx

from cnn_jax import models
from cnn_jax.training import generation
from cnn_jax.training.generation_evaluation import judged
from cnn_jax.training.mixture import fit_mixture
from cnn_jax.training.state import FunctionalModel, init_state

SHAPE = {'input_shape': (8, 8, 1), 'num_classes': 1}
RATE = 0.1
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
BATCH = {'inputs': IMAGES, 'labels': np.zeros(6, np.int32)}


def once(function, *arguments):
    """Compiles `function` without optimisation, because it runs only once, and calls it."""
    options = {'xla_backend_optimization_level': 0}
    return jax.jit(function).lower(*arguments).compile(compiler_options=options)(*arguments)


def vae(**options):
    options = {'features': (2,), 'hidden': 3} | options
    return FunctionalModel(lambda rngs: models.create('vae', **SHAPE, rngs=rngs, **options))


def test_elbo_of_a_vae_by_quadrature():
    """Computes the divergence by integrating densities, the likelihood with SciPy's Bernoulli."""
    net = vae()
    params, model_state = once(lambda: net.init(1))
    # Spread the means and log variances far from their initial values near 0.
    params['encoder/code/kernel'] = 3 * params['encoder/code/kernel']
    images, key = IMAGES / np.float32(255), jax.random.key(3)

    def run(params):
        model = net.merge(params, model_state)
        mean, log_variance = model.distribution(images)
        noise = jax.random.normal(key, mean.shape)
        logits = model.decode(mean + jnp.exp(log_variance / 2) * noise)
        return model.loss_terms(images, key), mean, log_variance, logits

    terms, mean, log_variance, logits = once(run, params)

    def divergence(mean, log_variance):
        own = scipy.stats.norm(mean, np.exp(log_variance / 2))
        standard = scipy.stats.norm()
        return scipy.integrate.quad(
            lambda z: own.pdf(z) * (own.logpdf(z) - standard.logpdf(z)),
            *own.interval(1 - 1e-12),
            epsabs=1e-9,
        )[0]

    pairs = zip(np.ravel(mean).tolist(), np.ravel(log_variance).tolist(), strict=True)
    wanted = np.reshape([divergence(*pair) for pair in pairs], mean.shape).sum(-1)
    assert wanted.max() > 0.1
    np.testing.assert_allclose(terms['divergence'], wanted, rtol=1e-4, atol=1e-6)

    # Grey values are probabilities: take the mean over both values of every pixel.
    on = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    by_value = [scipy.stats.bernoulli.logpmf(value, on) for value in (0, 1)]
    wanted = -((1 - images) * by_value[0] + images * by_value[1]).sum((1, 2, 3))
    np.testing.assert_allclose(terms['reconstruction'], wanted, rtol=1e-5)


def test_step_of_a_vae_descends_its_bound():
    net = vae()
    optimizer = optax.sgd(RATE / 64)
    state = once(lambda: init_state(net, optimizer, 0))
    step = generation.autoencoder_step(net, optimizer, lambda _: RATE, seed=5)
    new, metrics = once(step, state, BATCH)
    key = jax.random.fold_in(jax.random.key(5), 0)

    def bound(params):
        images = jnp.asarray(IMAGES, jnp.float32) / 255
        return sum(net.merge(params, state.model_state).negative_elbo(images, key)).mean()

    loss, grads = once(jax.value_and_grad(bound), state.params)
    np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
    for name, grad in grads.items():
        wanted = state.params[name] - RATE / 64 * grad
        np.testing.assert_allclose(new.params[name], wanted, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope='module')
def played():
    """Networks, the states before and after one step of a GAN, and the metrics of the step."""
    nets = {
        player: FunctionalModel(
            lambda rngs, player=player: models.create(
                f'dcgan_{player}', **SHAPE, rngs=rngs, **({'latent': 5} if 'g' == player[0] else {})
            )
        )
        for player in generation.PLAYERS
    }
    optimizer = optax.sgd(RATE)
    before = once(lambda: generation.init_gan_state(nets, optimizer, 0))
    step = generation.gan_step(nets, optimizer, lambda _: RATE, seed=5)
    after, metrics = once(step, before, BATCH)
    return nets, before, after, metrics


def test_each_player_of_a_gan_follows_its_own_loss(played):
    """Computes both updates by nnx.grad through all modules, one player's loss at a time."""
    nets, before, after, metrics = played
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(5), 0), (6, 5))
    real = jnp.asarray(IMAGES, jnp.float32) / 127.5 - 1

    def module(state, player):
        return nets[player].merge(*(generation.of_player(arrays, player) for arrays in state[1:3]))

    newer = {n: a for n, a in after.params.items() if n.startswith('discriminator')}
    mixed = before._replace(params=before.params | newer)

    def gradients(before, mixed):
        def of_judge(judge):
            fake = module(before, 'generator')(noise)
            sure = jax.nn.log_sigmoid(judge(real)).mean()
            return -sure - jnp.log1p(-jax.nn.sigmoid(judge(fake))).mean()

        def of_maker(maker):
            return -jax.nn.log_sigmoid(module(mixed, 'discriminator')(maker(noise))).mean()

        return (
            nnx.value_and_grad(of_judge)(module(before, 'discriminator')),
            nnx.value_and_grad(of_maker)(module(before, 'generator')),
        )

    found = once(gradients, before, mixed)
    for player, (loss, grads) in zip(generation.PLAYERS, found, strict=True):
        np.testing.assert_allclose(metrics[f'{player}_loss'], loss, rtol=1e-5)
        flat = {'/'.join(map(str, path)): value for path, value in nnx.to_flat_state(grads)}
        names = [name for name in before.params if name.startswith(player)]
        assert len(flat) == len(names) > 1
        for name in names:
            grad = np.asarray(flat[name.removeprefix(player + '/')][...])
            assert np.abs(grad).max() > 0
            wanted = before.params[name] - RATE * grad
            np.testing.assert_allclose(after.params[name], wanted, rtol=1e-4, atol=1e-6)


def test_both_players_keep_batch_statistics(played):
    _, before, after, metrics = played
    means = [name for name in before.model_state if name.endswith('mean')]
    assert {name.partition('/')[0] for name in means} == {'generator'}  # none in the judge at 8 x 8
    for name in means:
        assert np.abs(after.model_state[name] - before.model_state[name]).max() > 0
    assert 0 < metrics['fake'] < 1 and 0 < metrics['real'] < 1
    assert int(after.step) == 1
    assert metrics['leaf_norms'].shape == (len(before.params),)


def test_codes_between():
    first, last = jnp.asarray([[3.0, 0.0]]), jnp.asarray([[0.0, 1.0]])
    straight = generation.between(first, last, 3)
    np.testing.assert_allclose(straight[0], [[3, 0], [1.5, 0.5], [0, 1]], atol=1e-6)
    round_ = generation.between(first, last, 3, sphere=True)
    middle = 2 / np.sqrt(2)  # half the angle, and the mean of both lengths
    np.testing.assert_allclose(round_[0], [[3, 0], [middle, middle], [0, 1]], atol=1e-6)


def test_what_a_classifier_says():
    probabilities = np.array([[0.7, 0.3, 0], [0.6, 0.4, 0], [0, 0.9, 0.1], [0.2, 0.8, 0]])
    found = judged(probabilities, np.array([0, 1, 1, 1]))
    assert found['classes'] == [2, 2, 0] and found['count'] == 4
    np.testing.assert_allclose(found['confidence'], 0.75)
    np.testing.assert_allclose(found['entropy'], np.log(2))
    assert found['accuracy'] == 0.75
    assert 'accuracy' not in judged(probabilities)


def test_normal_pixels_of_a_vae():
    net = vae(likelihood='normal')
    params, model_state = once(lambda: net.init(1))
    images, key = IMAGES / np.float32(255), jax.random.key(3)

    def run(params):
        model = net.merge(params, model_state)
        mean, log_variance = model.distribution(images)
        noise = jax.random.normal(key, mean.shape)
        logits = model.decode(mean + jnp.exp(log_variance / 2) * noise)
        return model.loss_terms(images, key)['reconstruction'], jax.nn.sigmoid(logits)

    found, painted = once(run, params | {'log_variance': jnp.float32(-1.3)})
    wanted = -scipy.stats.norm(painted, np.exp(-0.65)).logpdf(images).sum((1, 2, 3))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_moving_averages(played):
    """Averages what makes images: all arrays of a VAE, those of the generator of a GAN."""
    nets, *_ = played
    optimizer = optax.sgd(RATE)
    before = once(lambda: generation.init_gan_state(nets, optimizer, 0, ema=True))
    before = before._replace(step=jnp.int32(50))  # (1 + 50)/(10 + 50) > 0.75
    step = generation.gan_step(nets, optimizer, lambda _: RATE, ema=0.75, seed=5)
    after, _ = once(step, before, BATCH)
    arrays = [state.params | state.model_state for state in (before, after)]
    assert set(after.ema) == {name for name in arrays[0] if name.startswith('generator/')}
    for name, found in after.ema.items():
        np.testing.assert_allclose(found, 0.75 * arrays[0][name] + 0.25 * arrays[1][name], 1e-5)
    used = generation.averaged(after)
    assert used.params.keys() == after.params.keys()
    name = 'generator/layers/image/kernel'
    assert used.params[name] is after.ema[name] and name not in used.model_state
    name = 'discriminator/layers/judge/kernel'
    assert used.params[name] is after.params[name]


def test_a_mixture_fits_its_codes():
    rng = np.random.default_rng(0)
    means, root = np.array([[3.0, 0], [-3, 1]]), np.array([[1.0, 0], [0.8, 0.3]])
    members = rng.choice(2, 4000, p=[0.25, 0.75])
    codes = means[members] + rng.normal(size=(4000, 2)) @ root.T
    draw = fit_mixture(codes, 2, seed=0)
    drawn = draw(20_000)
    np.testing.assert_array_equal(drawn[:100], draw(100))
    np.testing.assert_allclose(drawn.mean(0), codes.mean(0), atol=0.1)
    right = drawn[drawn[:, 0] > 0]
    np.testing.assert_allclose(len(right) / len(drawn), 0.25, atol=0.02)
    np.testing.assert_allclose(np.cov(right.T), root @ root.T, atol=0.1)

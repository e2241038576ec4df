"""Losses and training steps of autoencoders, VAEs and DCGANs, as pure functions."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax.data.dataset import normalize
from cnn_jax.training.optimizer import Schedule
from cnn_jax.training.state import Arrays, FunctionalModel, TrainState, init_state
from cnn_jax.training.step import Batch, Step, warm_decay

PLAYERS = ('discriminator', 'generator')


def autoencoder_step(
    net: FunctionalModel,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    ema: float = 0.0,
    seed: int,
) -> Step:
    """Returns the training step of an autoencoder or a VAE, see `step.make_step`.

    `ema` is the decay of the averages in state.ema, see `average`.

    Its metrics are loss, the terms of `Autoencoder.loss_terms`, grad_norm, learning_rate and
    leaf_norms. The loss is the sum of the terms in nats per image. For a VAE it is the negative
    ELBO (Kingma and Welling 2013, arXiv:1312.6114, section 2.3).
    """

    def loss_and_more(params: Arrays, model_state: Arrays, key: jax.Array, images: jax.Array):
        terms, model_state = net.use(
            params, model_state, key, lambda model: model.loss_terms(images, key)
        )
        means = {name: value.mean() for name, value in terms.items()}
        return sum(means.values()), (means, model_state)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Arrays]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        images = normalize(batch['inputs'])
        (loss, (means, model_state)), grads = jax.value_and_grad(loss_and_more, has_aux=True)(
            state.params, state.model_state, key, images
        )
        updates, opt = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averages = average(state.ema, params | model_state, ema, state.step)
        new = TrainState(state.step + 1, params, model_state, opt, averages)
        return new, {'loss': loss} | means | _common(grads, schedule, state.step)

    return step


def gan_step(
    nets: dict[str, FunctionalModel],
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    ema: float = 0.0,
    seed: int,
) -> Step:
    """Returns the training step of a GAN.

    The step updates the discriminator first, and then the generator against the updated
    discriminator. This is algorithm 1 of Goodfellow et al. 2014, arXiv:1406.2661, with k = 1 and
    the generator loss that their section 3 recommends. Real and generated images pass through
    batch norm as separate batches, as in Radford et al. 2015.

    Args:
        nets: the networks of the two `PLAYERS`. state.params and state.model_state hold the arrays
            of both, with the player as prefix of the name; state.opt_state has an entry per player.
        optimizer: the optimiser for each of the two networks.
        schedule: step -> learning rate; used only for the metrics.
        ema: decay of the averages in state.ema, see `average`.
        seed: seed of the noise.

    Returns:
        A step whose metrics are discriminator_loss and generator_loss (nats), real and fake (the
        mean probability of being real that the discriminator assigns to real and to generated
        images), grad_norm (over both gradients), learning_rate and leaf_norms.
    """
    generator, discriminator = nets['generator'], nets['discriminator']
    (latent,) = generator.model.input_shape

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Arrays]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        params, model_state = (
            {player: of_player(arrays, player) for player in PLAYERS}
            for arrays in (state.params, state.model_state)
        )
        real = normalize(batch['inputs']) * 2 - 1
        noise = jax.random.normal(key, (len(real), latent))
        fake, back, model_state['generator'] = jax.vjp(
            lambda p: generator.train(p, model_state['generator'], key, noise),
            params['generator'],
            has_aux=True,
        )

        def update(player: str, grads: Arrays) -> Any:
            updates, opt = optimizer.update(grads, state.opt_state[player], params[player])
            params[player] = optax.apply_updates(params[player], updates)
            return opt

        grads, opt = {}, {}
        judging = jax.value_and_grad(discriminator_loss, argnums=1, has_aux=True)
        (judge_loss, (judged, model_state['discriminator'])), grads['discriminator'] = judging(
            discriminator,
            params['discriminator'],
            model_state['discriminator'],
            real,
            fake,
        )
        opt['discriminator'] = update('discriminator', grads['discriminator'])
        # The chain rule is applied in two parts: the loss is differentiated with respect to the
        # images, and the images with respect to the generator's parameters. So neither gradient
        # can reach the other player's parameters.
        maker_loss, wanted = jax.value_and_grad(generator_loss, argnums=3)(
            discriminator, params['discriminator'], model_state['discriminator'], fake
        )
        (grads['generator'],) = back(wanted)
        opt['generator'] = update('generator', grads['generator'])
        averages = average(state.ema, of_both(params) | of_both(model_state), ema, state.step)
        new = TrainState(state.step + 1, of_both(params), of_both(model_state), opt, averages)
        metrics = {'discriminator_loss': judge_loss, 'generator_loss': maker_loss} | judged
        return new, metrics | _common(of_both(grads), schedule, state.step)

    return step


def discriminator_loss(
    net: FunctionalModel,
    params: Arrays,
    model_state: Arrays,
    real: jax.Array,
    fake: jax.Array,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], Arrays]]:
    """Returns the discriminator loss, and (the means of D, the model state).

    The loss is the mean of -log D(real) - log(1 - D(fake)).
    """
    key = jax.random.key(0)  # unused: the discriminator draws no random numbers
    of_real, model_state = net.train(params, model_state, key, real)
    of_fake, model_state = net.train(params, model_state, key, fake)
    loss = jax.nn.softplus(-of_real).mean() + jax.nn.softplus(of_fake).mean()
    judged = {'real': jax.nn.sigmoid(of_real).mean(), 'fake': jax.nn.sigmoid(of_fake).mean()}
    return loss, (judged, model_state)


def generator_loss(
    net: FunctionalModel, params: Arrays, model_state: Arrays, fake: jax.Array
) -> jax.Array:
    """Returns the mean of -log D(fake)."""
    logits, _ = net.train(params, model_state, jax.random.key(0), fake)
    return jax.nn.softplus(-logits).mean()


def init_gan_state(
    nets: dict[str, FunctionalModel],
    optimizer: optax.GradientTransformation,
    seed: int,
    *,
    ema: bool = False,
) -> TrainState:
    """Returns the state before the first step of `gan_step`; traceable.

    `ema`: whether the state includes a moving average of the generator's arrays.
    """
    states = {player: init_state(nets[player], optimizer, seed) for player in PLAYERS}
    generator = states['generator']
    averages = of_both({'generator': generator.params | generator.model_state})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=of_both({player: state.params for player, state in states.items()}),
        model_state=of_both({player: state.model_state for player, state in states.items()}),
        opt_state={player: state.opt_state for player, state in states.items()},
        ema=jax.tree.map(jnp.copy, averages) if ema else None,
    )


def average(
    averages: Arrays | None, arrays: Arrays, decay: float, step: jax.Array
) -> Arrays | None:
    """Moves exponential averages by one step; those arrays that have one are averaged.

    The decay is limited at first, so that the initial arrays are soon forgotten (`warm_decay`).

    Averages of a generator's weights: Yazıcı et al. 2018, arXiv:1806.04498. Batch statistics are
    averaged, too, because those of the last step belong to the weights of the last step.
    """
    if averages is None:
        return None
    decay = warm_decay(decay, step)
    return {name: decay * each + (1 - decay) * arrays[name] for name, each in averages.items()}


def averaged(state: TrainState) -> TrainState:
    """Returns the state with averages in place of those arrays that have one."""
    averages = state.ema or {}
    params, model_state = (
        {name: averages.get(name, each) for name, each in arrays.items()}
        for arrays in (state.params, state.model_state)
    )
    return state._replace(params=params, model_state=model_state)


def of_player(arrays: Arrays, player: str) -> Arrays:
    """Returns the arrays of one player under the names that its network uses."""
    start = player + '/'
    return {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}


def of_both(arrays: dict[str, Arrays]) -> Arrays:
    """Merges the arrays of both players: 'generator/layers/deconv0/kernel'."""
    return {f'{player}/{name}': a for player, own in arrays.items() for name, a in own.items()}


def between(first: jax.Array, second: jax.Array, steps: int, *, sphere: bool = False) -> jax.Array:
    """Interpolates between the codes `first` and `second`, both included.

    Args:
        first: codes (N, latent).
        second: codes (N, latent).
        steps: number of codes per row, at least 2.
        sphere: whether to interpolate along the great circle, with the norm interpolated linearly
            (White 2016, arXiv:1609.04468), instead of along the straight line. A straight line
            passes close to zero, where normal noise almost never lies.

    Returns:
        (N, steps, latent).
    """
    share = jnp.linspace(0.0, 1.0, steps)[:, None]
    first, second = first[:, None], second[:, None]
    if not sphere:
        return (1 - share) * first + share * second
    lengths = [jnp.linalg.norm(end, axis=-1, keepdims=True) for end in (first, second)]
    ends = first / lengths[0], second / lengths[1]
    angle = jnp.arccos(jnp.clip((ends[0] * ends[1]).sum(-1, keepdims=True), -1.0, 1.0))
    weights = jnp.sin((1 - share) * angle), jnp.sin(share * angle)
    direction = (weights[0] * ends[0] + weights[1] * ends[1]) / jnp.sin(angle)
    return direction * ((1 - share) * lengths[0] + share * lengths[1])


def _common(grads: Arrays, schedule: Schedule, step: jax.Array) -> Arrays:
    norms = jnp.stack([jnp.linalg.norm(grads[name].ravel()) for name in sorted(grads)])
    return {
        'grad_norm': jnp.linalg.norm(norms),
        'learning_rate': jnp.asarray(schedule(step), jnp.float32),
        'leaf_norms': norms,
    }

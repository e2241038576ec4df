"""Learning rate schedules and optimisers by name; `register` adds one of your own.

from cnn_jax.training.optimizer import OPTIMIZERS, SCHEDULES

@SCHEDULES.register('inverse_sqrt')
def inverse_sqrt(config, total_steps, warmup_steps):
    return lambda step: config.learning_rate / jnp.sqrt(1 + step)

@OPTIMIZERS.register('lion')
def lion(config, schedule):
    return optax.lion(schedule, weight_decay=config.weight_decay, mask=is_kernel)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax.errors import UserError
from cnn_jax.registry import Registry

if TYPE_CHECKING:
    from cnn_jax.training.config import RunConfig

Schedule = Callable[[Any], Any]

# (config, total_steps, warmup_steps) -> the schedule after the warm-up, counted from its end
SCHEDULES: Registry[Callable[[RunConfig, int, int], Schedule]] = Registry('schedule')
# (config, schedule) -> the optimiser, over `{name: array}` parameters
OPTIMIZERS: Registry[Callable[[RunConfig, Schedule], optax.GradientTransformation]]
OPTIMIZERS = Registry('optimizer')


@SCHEDULES.register('constant')
def constant(config: RunConfig, total_steps: int, warmup_steps: int) -> Schedule:
    return optax.constant_schedule(config.learning_rate)


@SCHEDULES.register('step')
def step(config: RunConfig, total_steps: int, warmup_steps: int) -> Schedule:
    """The rate is multiplied by `decay_factor` at each of the `milestones`."""
    steps = [round(share * total_steps) - warmup_steps for share in config.read_milestones()]
    factors = dict.fromkeys(steps, config.decay_factor)
    return optax.piecewise_constant_schedule(config.learning_rate, factors)


@SCHEDULES.register('cosine')
def cosine(config: RunConfig, total_steps: int, warmup_steps: int) -> Schedule:
    return optax.cosine_decay_schedule(config.learning_rate, total_steps - warmup_steps)


@SCHEDULES.register('linear')
def linear(config: RunConfig, total_steps: int, warmup_steps: int) -> Schedule:
    return optax.linear_schedule(config.learning_rate, 0.0, total_steps - warmup_steps)


@SCHEDULES.register('one_cycle')
def one_cycle(config: RunConfig, total_steps: int, warmup_steps: int) -> Schedule:
    """Rises over the first 30 % and falls with a cosine, as in fastai.

    Smith and Topin, "Super-Convergence", 2018, arXiv:1708.07120.
    """
    if warmup_steps:
        raise UserError(f'warmup={config.warmup!r}: schedule=one_cycle has its own')
    return optax.cosine_onecycle_schedule(total_steps, config.learning_rate)


def learning_rate(config: RunConfig, total_steps: int, warmup_steps: int) -> Schedule:
    """Returns step (from 0) -> learning rate: a linear rise over the warm-up, then the schedule.

    Raises:
        UserError: the warm-up is not shorter than the training, or the schedule takes none.
    """
    if warmup_steps and warmup_steps >= total_steps:
        raise UserError(
            f'warmup={config.warmup!r}: its {warmup_steps} steps must be fewer than the '
            f'{total_steps} of the training'
        )
    main = SCHEDULES.lookup(config.schedule)(config, total_steps, warmup_steps)
    if not warmup_steps:
        return main
    # The first step has a rate above 0, so that it is not lost.
    peak = config.learning_rate
    rise = optax.linear_schedule(peak / warmup_steps, peak, max(1, warmup_steps - 1))
    return optax.join_schedules([rise, main], [warmup_steps])


@OPTIMIZERS.register('sgd')
def sgd(config: RunConfig, schedule: Schedule) -> optax.GradientTransformation:
    main = optax.sgd(schedule, config.momentum or None, config.nesterov)
    return optax.chain(_decay_in_gradient(config), main)


@OPTIMIZERS.register('adam')
def adam(config: RunConfig, schedule: Schedule) -> optax.GradientTransformation:
    return optax.chain(_decay_in_gradient(config), optax.adam(schedule, b1=config.beta1))


@OPTIMIZERS.register('adamw')
def adamw(config: RunConfig, schedule: Schedule) -> optax.GradientTransformation:
    """Loshchilov and Hutter, 2019, arXiv:1711.05101."""
    decay = config.weight_decay
    return optax.adamw(schedule, b1=config.beta1, weight_decay=decay, mask=is_kernel)


@OPTIMIZERS.register('muon')
def muon(config: RunConfig, schedule: Schedule) -> optax.GradientTransformation:
    """Kernels, as matrices (all inputs, outputs), by Muon; everything else by Adam."""
    return optax.contrib.muon(
        schedule,
        beta=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        weight_decay_mask=is_kernel,
        adam_weight_decay=0.0,
        muon_weight_dimension_numbers=_as_matrices,
    )


@OPTIMIZERS.register('lars')
def lars(config: RunConfig, schedule: Schedule) -> optax.GradientTransformation:
    """You et al., 2017, arXiv:1708.03888."""
    return optax.lars(
        schedule,
        weight_decay=config.weight_decay,
        weight_decay_mask=is_kernel,
        trust_ratio_mask=is_kernel,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )


def make_optimizer(config: RunConfig, schedule: Schedule) -> optax.GradientTransformation:
    """Returns the optimiser of a configuration, over `{name: array}` parameters.

    Weight decay applies to kernels only: decoupled for adamw and muon, as part of the gradient for
    sgd, adam and lars.
    """
    main = OPTIMIZERS.lookup(config.optimizer)(config, schedule)
    if config.clip_norm:
        main = optax.chain(optax.clip_by_global_norm(config.clip_norm), main)
    if config.max_norm:
        main = optax.chain(main, keep_norm(config.max_norm))
    return main


def _decay_in_gradient(config: RunConfig) -> optax.GradientTransformation:
    if not config.weight_decay:
        return optax.identity()
    return optax.add_decayed_weights(config.weight_decay, mask=is_kernel)


def keep_norm(greatest: float) -> optax.GradientTransformation:
    """After each step, scales the weights into a dense unit down to a norm of at most `greatest`.

    These are the columns of every kernel (inputs, units). Hinton et al. 2012, arXiv:1207.0580,
    section 2; the constraint of Kim 2014 on the layer before the softmax.
    """

    def update(updates, state, params):
        kernels = is_kernel(params)

        def kept(name, update):
            if not kernels[name] or update.ndim != 2:
                return update
            new = params[name] + update
            norms = jnp.linalg.norm(new, axis=0)
            return new * (greatest / jnp.maximum(norms, greatest)) - params[name]

        return {name: kept(name, each) for name, each in updates.items()}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def is_kernel(params: Mapping[str, jax.Array]) -> dict[str, bool]:
    """Returns which parameters are kernels: those that weight decay applies to."""
    return {name: name.rsplit('/', 1)[-1] == 'kernel' for name in params}


def _as_matrices(params: Mapping[str, jax.Array]) -> dict[str, Any]:
    kernels = is_kernel(params)
    return {
        name: optax.contrib.MuonDimensionNumbers(
            reduction_axis=tuple(range(p.ndim - 1)), output_axis=p.ndim - 1
        )
        if kernels[name] and p.ndim > 1
        else None
        for name, p in params.items()
    }

"""Defines learning rate schedules and optimisers by name; `register` adds your own.

from cnn_jax.training.optimizer import OPTIMIZERS, SCHEDULES

@SCHEDULES.register('inverse_sqrt')
def inverse_sqrt(config, total_steps, warmup_steps):
    return lambda step: config.learning_rate / jnp.sqrt(1 + step)

@OPTIMIZERS.register('lion')
def lion(config, schedule):
    return optax.lion(schedule, weight_decay=config.weight_decay, mask=is_kernel)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax.errors import UserError
from cnn_jax.registry import Registry

if TYPE_CHECKING:
    from cnn_jax.training.config import RunConfig

Schedule = Callable[[Any], Any]

# (config, total_steps, warmup_steps) -> the schedule after the warm-up; its step 0 is the end of
# the warm-up
SCHEDULES: Registry[Callable[[RunConfig, int, int], Schedule]] = Registry('schedule')
# (config, schedule) -> the optimiser for `{name: array}` parameters
OPTIMIZERS: Registry[Callable[[RunConfig, Schedule], optax.GradientTransformation]]
OPTIMIZERS = Registry('optimizer')


@SCHEDULES.register('constant')
def constant(config: RunConfig, total_steps: int, warmup_steps: int) -> Schedule:
    return optax.constant_schedule(config.learning_rate)


@SCHEDULES.register('step')
def step(config: RunConfig, total_steps: int, warmup_steps: int) -> Schedule:
    """Multiplies the learning rate by `decay_factor` at each of the `milestones`."""
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
    """Increases the learning rate over the first 30 % and then decays it by a cosine, as in fastai.

    Smith and Topin, "Super-Convergence", 2018, arXiv:1708.07120.
    """
    if warmup_steps:
        raise UserError(f'warmup={config.warmup!r}: schedule=one_cycle has its own warm-up')
    return optax.cosine_onecycle_schedule(total_steps, config.learning_rate)


def learning_rate(config: RunConfig, total_steps: int, warmup_steps: int) -> Schedule:
    """Returns a function from step (from 0) to learning rate: linear warm-up, then the schedule.

    Raises:
        UserError: the warm-up is not shorter than the training, or the schedule allows no warm-up.
    """
    if warmup_steps and warmup_steps >= total_steps:
        raise UserError(
            f'warmup={config.warmup!r}: its {warmup_steps} steps must be fewer than the '
            f'{total_steps} of the training'
        )
    main = SCHEDULES.lookup(config.schedule)(config, total_steps, warmup_steps)
    if not warmup_steps:
        return main
    # The rate starts above 0, so that the first step has an effect.
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
    """Returns AdamW (Loshchilov and Hutter, 2019, arXiv:1711.05101)."""
    decay = config.weight_decay
    return optax.adamw(schedule, b1=config.beta1, weight_decay=decay, mask=is_kernel)


@OPTIMIZERS.register('muon')
def muon(config: RunConfig, schedule: Schedule) -> optax.GradientTransformation:
    """Applies Muon to kernels, reshaped to matrices (inputs, outputs), and Adam to other arrays."""
    return optax.contrib.muon(
        schedule,
        beta=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        weight_decay_mask=is_kernel,
        adam_weight_decay=0.0,
        muon_weight_dimension_numbers=_as_matrices,
    )


@OPTIMIZERS.register('adadelta')
def adadelta(config: RunConfig, schedule: Schedule) -> optax.GradientTransformation:
    """Returns Adadelta (Zeiler, 2012, arXiv:1212.5701) with the paper's decay and epsilon.

    The paper has no learning rate: it is 1.
    """
    return optax.chain(_decay_in_gradient(config), optax.adadelta(schedule, rho=0.95, eps=1e-6))


@OPTIMIZERS.register('lars')
def lars(config: RunConfig, schedule: Schedule) -> optax.GradientTransformation:
    """Returns LARS (You et al., 2017, arXiv:1708.03888)."""
    return optax.lars(
        schedule,
        weight_decay=config.weight_decay,
        weight_decay_mask=is_kernel,
        trust_ratio_mask=is_kernel,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )


def make_optimizer(
    config: RunConfig, schedule: Schedule, factors: Mapping[str, float] | None = None
) -> optax.GradientTransformation:
    """Returns the optimiser of a configuration for `{name: array}` parameters.

    Weight decay applies only to kernels. It is decoupled for adamw and muon, and added to the
    gradient for sgd, adam, adadelta and lars.

    Args:
        config: the configuration.
        schedule: step -> learning rate.
        factors: name -> factor of the learning rate; 1 for parameters that are not named. A
            parameter with a factor of 0 is frozen: no update, no weight decay, no state, and no
            share in the norm that `clip_norm` limits.
    """
    factors = factors or {}
    main = OPTIMIZERS.lookup(config.optimizer)(config, schedule)
    if config.clip_norm:
        main = optax.chain(optax.clip_by_global_norm(config.clip_norm), main)
    if set(factors.values()) - {0.0}:
        main = optax.chain(main, scale_rates(factors))
    if config.max_norm:
        main = optax.chain(main, keep_norm(config.max_norm))
    if frozen := {name for name, factor in factors.items() if factor == 0}:
        main = freeze(main, frozen)
    return main


def scale_rates(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies updates by the factors of their parameters; names without a factor keep theirs.

    After an optimiser, this multiplies the learning rate, since all updates of the optimisers here
    are proportional to it.
    """

    def update(updates, state, params=None):
        del params
        return {name: factors.get(name, 1.0) * each for name, each in updates.items()}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def freeze(
    inner: optax.GradientTransformation, names: Collection[str]
) -> optax.GradientTransformation:
    """Applies `inner` to all parameters except those named, whose updates are zero."""

    def trained(values):
        return {name: value for name, value in values.items() if name not in names}

    def update(updates, state, params):
        new, state = inner.update(trained(updates), state, trained(params))
        return {name: new.get(name, jnp.zeros_like(each)) for name, each in updates.items()}, state

    return optax.GradientTransformation(lambda params: inner.init(trained(params)), update)


def _decay_in_gradient(config: RunConfig) -> optax.GradientTransformation:
    # It is an array where runs that differ in it train together (`members`).
    if isinstance(config.weight_decay, float) and not config.weight_decay:
        return optax.identity()
    return optax.add_decayed_weights(config.weight_decay, mask=is_kernel)


def keep_norm(greatest: float) -> optax.GradientTransformation:
    """Limits the norm of the weights into each dense unit to `greatest` after every step.

    The weights into a unit are a column of a kernel (inputs, units); a column that exceeds the norm
    is scaled down. See Hinton et al. 2012, arXiv:1207.0580, section 2. Kim 2014 uses this
    constraint for the layer before the softmax.
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
    """Returns, for every parameter, whether it is a kernel, to which weight decay applies."""
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

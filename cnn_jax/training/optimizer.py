"""Optimisers and learning rates by name."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax.errors import UserError
from cnn_jax.training.config import RunConfig

Schedule = Callable[[Any], Any]


def learning_rate(config: RunConfig, total_steps: int, warmup_steps: int) -> Schedule:
    """Step (from 0) -> learning rate: a linear rise over the warm-up, then the schedule.

    The schedules begin at `learning_rate` and, but for constant and step, end near 0 with the last
    step. one_cycle rises over its first 30 % and has no further warm-up (Smith and Topin,
    "Super-Convergence", 2018, with a cosine as in fastai).

    Raises:
        ValueError: the warm-up is not shorter than the training, or is given with one_cycle.
    """
    peak, rest = config.learning_rate, total_steps - warmup_steps
    if warmup_steps and rest < 1:
        raise UserError(
            f'warmup={config.warmup!r}: its {warmup_steps} steps must be fewer than the '
            f'{total_steps} of the training'
        )
    if config.schedule == 'one_cycle':
        if warmup_steps:
            raise UserError(f'warmup={config.warmup!r}: schedule=one_cycle has its own')
        return optax.cosine_onecycle_schedule(total_steps, peak)
    if config.schedule == 'constant':
        main = optax.constant_schedule(peak)
    elif config.schedule == 'linear':
        main = optax.linear_schedule(peak, 0.0, rest)
    elif config.schedule == 'cosine':
        main = optax.cosine_decay_schedule(peak, rest)
    else:
        steps = [round(share * total_steps) - warmup_steps for share in config.read_milestones()]
        main = optax.piecewise_constant_schedule(peak, dict.fromkeys(steps, config.decay_factor))
    if not warmup_steps:
        return main
    # The first step is not wasted on a rate of 0.
    rise = optax.linear_schedule(peak / warmup_steps, peak, max(1, warmup_steps - 1))
    return optax.join_schedules([rise, main], [warmup_steps])


def make_optimizer(config: RunConfig, schedule: Schedule) -> optax.GradientTransformation:
    """The optimiser of a configuration, over `{name: array}` parameters.

    Weight decay applies to kernels only: decoupled for adamw and muon (Loshchilov and Hutter,
    2019), as part of the gradient for sgd, adam and lars (You et al., 2017).
    """
    decay, momentum, nesterov = config.weight_decay, config.momentum, config.nesterov
    add_decay = optax.add_decayed_weights(decay, mask=is_kernel) if decay else optax.identity()
    match config.optimizer:
        case 'sgd':
            momentum = momentum or None
            main = optax.chain(add_decay, optax.sgd(schedule, momentum, nesterov))
        case 'adam':
            main = optax.chain(add_decay, optax.adam(schedule, b1=config.beta1))
        case 'adamw':
            main = optax.adamw(schedule, b1=config.beta1, weight_decay=decay, mask=is_kernel)
        case 'lars':
            main = optax.lars(
                schedule,
                weight_decay=decay,
                weight_decay_mask=is_kernel,
                trust_ratio_mask=is_kernel,
                momentum=momentum,
                nesterov=nesterov,
            )
        case 'muon':
            # Kernels as matrices (all inputs, outputs) by Muon, everything else by Adam.
            main = optax.contrib.muon(
                schedule,
                beta=momentum,
                nesterov=nesterov,
                weight_decay=decay,
                weight_decay_mask=is_kernel,
                adam_weight_decay=0.0,
                muon_weight_dimension_numbers=_as_matrices,
            )
    if config.clip_norm:
        main = optax.chain(optax.clip_by_global_norm(config.clip_norm), main)
    if config.max_norm:
        main = optax.chain(main, keep_norm(config.max_norm))
    return main


def keep_norm(greatest: float) -> optax.GradientTransformation:
    """Shortens, after the step, what is longer than `greatest` of the weights into a dense unit.

    These are the columns of every kernel (inputs, units). (Hinton et al. 2012, arXiv:1207.0580,
    section 2; the constraint of Kim 2014 on the layer before the softmax.)
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
    """Which parameters are kernels: those that weight decay applies to."""
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

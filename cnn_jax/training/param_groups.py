"""Computes the factor of every parameter's learning rate: freezing, named groups, layer-wise decay.

The factors of several rules multiply. A factor of 0 freezes a parameter; see `optimizer`.
"""

import difflib
import fnmatch
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from flax import nnx
from jax.extend.core import Literal

from cnn_jax.errors import UserError
from cnn_jax.nn.layers import Residual
from cnn_jax.training.config import TrainConfig
from cnn_jax.training.state import FunctionalModel


def rate_factors(config: TrainConfig, net: FunctionalModel, inputs: Any) -> dict[str, float]:
    """Returns the factor of the learning rate by parameter name, without factors of 1.

    Args:
        config: `freeze`, `rate_factors` and `layer_decay` are used.
        net: the model.
        inputs: shape and dtype of a batch of normalised inputs.

    Raises:
        UserError: a pattern matches no parameter, or every parameter is frozen.
    """
    factors = dict.fromkeys(net.params, 1.0)
    for pattern in config.read_freeze():
        for name in matching('freeze', pattern, net.params):
            factors[name] = 0.0
    for pattern, factor in config.read_rate_factors().items():
        for name in matching('rate_factors', pattern, net.params):
            factors[name] *= factor
    if config.layer_decay != 1:
        layers = layer_indices(net, inputs)
        last = max(layers.values())
        for name, layer in layers.items():
            factors[name] *= config.layer_decay ** (last - layer)
    if not any(factors.values()):
        raise UserError(
            f'freeze={config.freeze!r} and rate_factors={config.rate_factors!r}: no parameter is '
            'left to train'
        )
    return {name: factor for name, factor in factors.items() if factor != 1}


def matching(argument: str, pattern: str, names: Iterable[str]) -> list[str]:
    """Returns the names that match a pattern of `fnmatch`, in which * also matches slashes.

    Raises:
        UserError: none matches; the message names the argument and the most similar names.
    """
    found = fnmatch.filter(names, pattern)
    if not found:
        close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
        raise UserError(
            f'{argument}={pattern!r}: matches no parameter; the nearest are {", ".join(close)}'
        )
    return found


def layer_indices(net: FunctionalModel, inputs: Any) -> dict[str, int]:
    """Returns the number of the layer of every parameter, from 0, in the order of application.

    A layer is a residual block or, outside of these, a module with a kernel or an embedding.
    Modules without one, such as batch normalisation, belong to the layer before them. Bao et al.
    2021, "BEiT", arXiv:2106.08254, and Liu et al. 2022, "A ConvNet for the 2020s",
    arXiv:2201.03545, decay the learning rate over such layers in fine-tuning.
    """
    blocks = {
        '/'.join(map(str, path)) + '/'
        for path, module in nnx.iter_modules(net.model)
        if isinstance(module, Residual)
    }
    groups: dict[str, list[str]] = {}
    for name in _in_order_of_use(net, inputs):
        enclosing = [block for block in blocks if name.startswith(block)]
        group = min(enclosing, key=len, default=name.rpartition('/')[0])
        groups.setdefault(group, []).append(name)
    layer = -1
    layers: dict[str, int] = {}
    for members in groups.values():
        if any(name.endswith(('/kernel', '/embedding')) for name in members):
            layer += 1
        layers |= dict.fromkeys(members, max(layer, 0))
    return layers


def _in_order_of_use(net: FunctionalModel, inputs: Any) -> Iterator[str]:
    """Iterates over the parameters in the order in which the model first uses them."""
    program = jax.make_jaxpr(net.predict)(net.params, net.model_state, inputs).jaxpr
    first_use: dict[Any, int] = {}
    for index, equation in enumerate(program.eqns):
        for variable in equation.invars:
            if not isinstance(variable, Literal):
                first_use.setdefault(variable, index)
    leaves = dict(zip(sorted(net.params), program.invars, strict=False))
    return iter(sorted(net.params, key=lambda name: first_use.get(leaves[name], math.inf)))


def frozen(factors: Mapping[str, float]) -> frozenset[str]:
    """Returns the names of the parameters that are not trained."""
    return frozenset(name for name, factor in factors.items() if factor == 0)

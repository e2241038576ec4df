"""A Flax model taken apart into plain dictionaries of arrays, and the state of a training run.

Flax's graph is split once. What the step gets and gives is `{name: array}`, for instance
'layers/conv1/kernel': flattened by C++ at every call, readable in a checkpoint, and independent of
the version of Flax that wrote it.

The state of random streams (dropout) is no part of it: every step derives its keys anew from the
seed and its own number, so a resumed run draws what the uninterrupted one would have drawn.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

Arrays = dict[str, jax.Array]
State = dict[str, Any]  # step, params, rest, opt, and ema where there is one


class Net:
    """A model as pure functions of named arrays.

    Args:
        make: rngs -> model. Called abstractly here (nothing is computed), then once by `init`.

    Attributes:
        params: name -> shape and dtype of every parameter.
        rest: the same of what else changes in training (batch statistics).
        model: the abstract model, for its attributes.
    """

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module]):
        self._make = make
        self.model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        self._graphdef, params, random, rest = _split(self.model)
        self._structures = [jax.tree.structure(tree) for tree in (params, random, rest)]
        self._random = jax.tree.leaves(random)
        self.params, self.rest = _named(params), _named(rest)

    @property
    def num_parameters(self) -> int:
        return sum(leaf.size for leaf in self.params.values())

    def init(self, seed: int) -> tuple[Arrays, Arrays]:
        """Initial parameters and other state; traceable."""
        _, params, _, rest = _split(self._make(nnx.Rngs(seed)))
        return _named(params), _named(rest)

    def merge(self, params: Arrays, rest: Arrays, key: jax.Array | None = None) -> nnx.Module:
        """The model with these arrays; `key` seeds its random streams."""
        key = jax.random.key(0) if key is None else key
        random = [
            jax.random.fold_in(key, i)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for i, leaf in enumerate(self._random)
        ]
        leaves = [
            [params[name] for name in self.params],
            random,
            [rest[name] for name in self.rest],
        ]
        trees = [jax.tree.unflatten(s, x) for s, x in zip(self._structures, leaves, strict=True)]
        return nnx.merge(self._graphdef, *trees, copy=True)

    def split(self, model: nnx.Module) -> tuple[Arrays, Arrays]:
        """Parameters and other state of a model that `merge` made."""
        _, params, _, rest = _split(model)
        return _named(params), _named(rest)

    def train(
        self, params: Arrays, rest: Arrays, key: jax.Array, inputs: jax.Array
    ) -> tuple[jax.Array, Arrays]:
        """Logits in training mode, and the rest as the pass left it."""
        return self.use(params, rest, key, lambda model: model(inputs))

    def use(
        self, params: Arrays, rest: Arrays, key: jax.Array, what: Callable[[nnx.Module], Any]
    ) -> tuple[Any, Arrays]:
        """What `what` makes of the model in training mode, and the rest as it left it."""
        model = self.merge(params, rest, key)
        model.train()
        found = what(model)
        return found, _named(_split(model)[3])

    def predict(
        self, params: Arrays, rest: Arrays, inputs: jax.Array, intermediates: dict | None = None
    ) -> jax.Array:
        """Logits in evaluation mode; `intermediates` is filled with the layers' results."""
        model = self.merge(params, rest)
        model.eval()
        if intermediates is None:
            return model(inputs)
        return model(inputs, intermediates=intermediates)


def init_state(
    net: Net, optimizer: optax.GradientTransformation, seed: int, *, ema: bool = False
) -> State:
    """The state before the first step; traceable. `ema`: with an average of the parameters."""
    params, rest = net.init(seed)
    state = {
        'step': jnp.zeros((), jnp.int32),
        'params': params,
        'rest': rest,
        'opt': optimizer.init(params),
    }
    if ema:
        # A copy: the step gives the memory of each array to its successor.
        state['ema'] = jax.tree.map(jnp.copy, params)
    return state


def _split(model: nnx.Module):
    return nnx.split(model, nnx.Param, nnx.RngState, ...)


def _named(tree: nnx.State) -> Arrays:
    """Leaves by path: 'layers/conv1/kernel'."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _name(path) -> str:
    parts = [str(getattr(entry, 'key', getattr(entry, 'idx', None))) for entry in path]
    # Flax holds an array as the attribute `value` of a variable: no part of its name.
    named = [p for p, entry in zip(parts, path, strict=True) if not hasattr(entry, 'name')]
    return '/'.join(named)

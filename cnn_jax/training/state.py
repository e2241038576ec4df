"""Splits a Flax model into plain dictionaries of arrays, and defines the training state.

The Flax graph is split once. The step takes and returns dictionaries `{name: array}` with names
such as 'layers/conv1/kernel'. JAX flattens them in C++ at every call, and in a checkpoint they are
readable and independent of the Flax version.

The state does not include random streams (dropout). Every step derives its keys from the seed and
the step number, so a resumed run draws the same random numbers as an uninterrupted one.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from cnn_jax.models import Model

Arrays = dict[str, jax.Array]


class TrainState(NamedTuple):
    """The state of a training run: everything that changes from step to step.

    Attributes:
        step: number of steps done, int32.
        params: the parameters, by name.
        model_state: other arrays that the model updates in training (batch statistics), by name.
        opt_state: the state of the optimiser.
        ema: a moving average of the parameters, or None.
    """

    step: jax.Array
    params: Arrays
    model_state: Arrays
    opt_state: Any
    ema: Arrays | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, except None, under their names in a checkpoint."""
        saved = dict(zip(_SAVED_AS, self, strict=True))
        return {name: value for name, value in saved.items() if value is not None}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> 'TrainState':
        """Returns the state from the output of `to_dict`."""
        return cls._make(map(saved.get, _SAVED_AS))


_SAVED_AS = ('step', 'params', 'rest', 'opt', 'ema')  # the format of checkpoints: never change


class FunctionalModel:
    """A model as pure functions of named arrays.

    Args:
        make: rngs -> model. The constructor calls it abstractly, without computing anything;
            `init` calls it to create the arrays.

    Attributes:
        params: name -> shape and dtype of every parameter.
        model_state: name -> shape and dtype of the other arrays that change in training (batch
            statistics).
        model: the abstract model, for reading its attributes.
    """

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module]):
        self._make = make
        self.model = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
        self._graphdef, params, random, model_state = _split(self.model)
        self._structures = [jax.tree.structure(tree) for tree in (params, random, model_state)]
        self._random = jax.tree.leaves(random)
        self.params, self.model_state = named(params), named(model_state)

    @property
    def num_parameters(self) -> int:
        return sum(leaf.size for leaf in self.params.values())

    @property
    def records_layers(self) -> bool:
        """Whether the model can record the results of its layers; see `predict`."""
        return 'intermediates' in inspect.signature(self.model).parameters

    def for_inputs(self, shape: Sequence[int]) -> 'FunctionalModel':
        """Returns a model of the same layers and parameters that takes inputs of another shape.

        Only a `Model` checks the shape of its inputs. Whether the layers can be applied to `shape`
        is not checked here.
        """
        other = copy.copy(self)
        other.model = nnx.merge(self._graphdef, *_split(self.model)[1:])
        if isinstance(other.model, Model):
            other.model.input_shape = tuple(shape)
        other._graphdef = _split(other.model)[0]
        return other

    def init(self, seed: int) -> tuple[Arrays, Arrays]:
        """Returns the initial parameters and model state; traceable, also in `seed`."""
        _, params, _, model_state = _split(self._make(nnx.Rngs(jax.random.key(seed))))
        return named(params), named(model_state)

    def merge(
        self, params: Arrays, model_state: Arrays, key: jax.Array | None = None
    ) -> nnx.Module:
        """Returns the model with these arrays; `key` seeds its random streams."""
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
            [model_state[name] for name in self.model_state],
        ]
        trees = [jax.tree.unflatten(s, x) for s, x in zip(self._structures, leaves, strict=True)]
        return nnx.merge(self._graphdef, *trees, copy=True)

    def split(self, model: nnx.Module) -> tuple[Arrays, Arrays]:
        """Returns the parameters and model state of a model that `merge` returned."""
        _, params, _, model_state = _split(model)
        return named(params), named(model_state)

    def train(
        self, params: Arrays, model_state: Arrays, key: jax.Array, inputs: jax.Array
    ) -> tuple[jax.Array, Arrays]:
        """Returns the logits in training mode and the updated model state."""
        return self.use(params, model_state, key, lambda model: model(inputs))

    def use(
        self, params: Arrays, model_state: Arrays, key: jax.Array, what: Callable[[nnx.Module], Any]
    ) -> tuple[Any, Arrays]:
        """Returns `what(model)` in training mode and the updated model state."""
        model = self.merge(params, model_state, key)
        model.train()
        found = what(model)
        return found, named(_split(model)[3])

    def predict(
        self,
        params: Arrays,
        model_state: Arrays,
        inputs: jax.Array,
        intermediates: dict | None = None,
    ) -> jax.Array:
        """Returns the logits in evaluation mode and adds layer outputs to `intermediates`."""
        model = self.merge(params, model_state)
        model.eval()
        if intermediates is None:
            return model(inputs)
        return model(inputs, intermediates=intermediates)


def init_state(
    net: FunctionalModel, optimizer: optax.GradientTransformation, seed: int, *, ema: bool = False
) -> TrainState:
    """Returns the state before the first step; traceable.

    `ema`: whether the state includes a moving average of the parameters.
    """
    params, model_state = net.init(seed)
    # The average must be a copy, because the step donates the buffer of each array.
    average = jax.tree.map(jnp.copy, params) if ema else None
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, params, model_state, optimizer.init(params), average)


def _split(model: nnx.Module):
    return nnx.split(model, nnx.Param, nnx.RngState, ...)


def named(tree: nnx.State) -> Arrays:
    """Returns the leaves by path: 'layers/conv1/kernel'."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _name(path) -> str:
    parts = [str(getattr(entry, 'key', getattr(entry, 'idx', None))) for entry in path]
    # Flax stores an array as the attribute `value` of a variable, which is not part of the name.
    named = [p for p, entry in zip(parts, path, strict=True) if not hasattr(entry, 'name')]
    return '/'.join(named)

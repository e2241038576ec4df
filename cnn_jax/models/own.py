"""Makes a model of a user's own class or function."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from cnn_jax import plugins
from cnn_jax.errors import UserError, UserTypeError
from cnn_jax.models.base import LayerFactory


def create(
    name: str,
    make: LayerFactory,
    input_shape: Sequence[int],
    num_classes: int,
    options: Mapping[str, Any],
) -> nnx.Module:
    """Calls the object that 'path/file.py:name' names; see `build`.

    Besides those of `build`, the arguments are `dtype` and `make` (the `LayerFactory`).

    Raises:
        UserError: there is no such object; `dtype` or `implementation` is set, but the model does
            not take it; or see `build`.
    """
    model = plugins.load_object(name, 'model')
    arguments = {
        'input_shape': tuple(input_shape),
        'num_classes': num_classes,
        'rngs': make.rngs,
        'dtype': make.dtype,
        'make': make,
    }
    for what, is_set in (
        ('dtype', make.dtype != jnp.float32),
        ('implementation', bool(make.implementation)),
    ):
        if is_set and callable(model) and not {what, 'make'} & set(_parameters(model)):
            raise UserError(f'{what}={getattr(make, what)}: model {name} takes no {what}')
    return build(name, model, arguments, options)


def build(
    name: str, model: Any, arguments: Mapping[str, Any], options: Mapping[str, Any]
) -> nnx.Module:
    """Calls a class or a function with its options and those of `arguments` that it has.

    Args:
        name: name of the model, for messages.
        model: a class or function that makes an `nnx.Module`.
        arguments: values for its parameters by name, such as `rngs`, `input_shape` and
            `num_classes`; those that it does not have are left out.
        options: values for further parameters.

    Raises:
        UserError: `model` is not a class or a function, does not make an `nnx.Module`, has no such
            option, or needs an argument that is not given.
    """
    if not callable(model) or isinstance(model, nnx.Module):
        raise UserError(
            f'model={name!r}: is {type(model).__name__}; must be a class or a function that makes '
            'an nnx.Module'
        )
    known = _parameters(model)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    if (unknown := set(options) - set(known)) and not takes_any:
        listed = ', '.join(n for n in known if n not in arguments) or 'none'
        raise UserError(f'model {name} has no option {", ".join(sorted(unknown))}; it has {listed}')
    given = {n: value for n, value in arguments.items() if n in known} | dict(options)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for n, parameter in known.items():
        if parameter.kind in named and parameter.default is parameter.empty and n not in given:
            raise UserError(
                f'model {name}: {n} has no default; give it as an option '
                f'(--model_options={n}=...), or by functools.partial'
            )
    made = model(**given)
    if not isinstance(made, nnx.Module):
        raise UserTypeError(f'model {name} makes {type(made).__name__}; must make an nnx.Module')
    return made


def _parameters(model: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    # The metaclass of Flax's modules hides the parameters of a class, and of a partial of it.
    if isinstance(model, functools.partial):
        known = dict(list(_parameters(model.func).items())[len(model.args) :])
        given = {n: p for n, p in known.items() if n in model.keywords}
        return known | {n: p.replace(default=model.keywords[n]) for n, p in given.items()}
    signature = inspect.signature(model.__init__ if isinstance(model, type) else model)
    known = dict(signature.parameters)
    if isinstance(model, type):
        known.pop(next(iter(known)))
    return known

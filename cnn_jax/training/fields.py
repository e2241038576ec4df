"""Declares, parses and checks the fields of a configuration."""

import ast
import dataclasses
import math
from collections.abc import Callable
from typing import Any

from cnn_jax.errors import UserError


def option(
    default,
    text,
    *,
    choices=(),
    at_least=None,
    below=None,
    identity=True,
    is_path=False,
    is_new=False,
):
    """Returns a dataclass field with its default, help text, allowed values and flags.

    `is_new` marks a field that earlier versions lack. The identity leaves such a field out while it
    has its default. The name of the default folder is derived from the identity, so runs of
    earlier versions are still found.
    """
    metadata = {
        'help': text,
        'choices': choices,
        'at_least': at_least,
        'below': below,
        'identity': identity,
        'is_path': is_path,
        'is_new': is_new,
    }
    return dataclasses.field(default=default, metadata=metadata)


def arguments(text: str) -> dict[str, Any]:
    """Parses 'name=value,name=value' into Python literals; a bare word is a string."""
    call = ast.parse(f'f({text})', mode='eval').body
    if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
        raise UserError('must have the form name=value,name=value')
    return {
        str(k.arg): k.value.id if isinstance(k.value, ast.Name) else ast.literal_eval(k.value)
        for k in call.keywords
    }


def parsed(config: Any, name: str, parse: Callable[[str], Any]) -> None:
    """Parses the text in a field, and names the field in the error if that fails."""
    value = getattr(config, name)
    try:
        parse(value)
    except (ValueError, SyntaxError, TypeError) as error:
        raise UserError(f'{name}={value!r}: {error}') from error


def check(field: dataclasses.Field, value: Any) -> None:
    """Checks the type and the range of a value; raises UserError if the field does not allow it."""
    name, rules, kind = field.name, field.metadata, field.type
    assert isinstance(kind, type)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f'{name}={value!r}: must be of type {kind.__name__}')
    if rules['choices'] and value not in rules['choices']:
        raise UserError(f'{name}={value!r}: must be one of {", ".join(rules["choices"])}')
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f'{name}={value}: must be finite')
    if rules['at_least'] is not None and value < rules['at_least']:
        raise UserError(f'{name}={value}: must be at least {rules["at_least"]}')
    if rules['below'] is not None and value >= rules['below']:
        raise UserError(f'{name}={value}: must be below {rules["below"]}')

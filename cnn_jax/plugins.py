"""Imports a user's own modules, for the names that they register and the objects they define."""

import importlib
import importlib.util
import os
import pathlib
import re
import sys
from typing import Any

from cnn_jax.errors import UserError


def load(names: str) -> str:
    """Imports modules and .py files, each once per process.

    Args:
        names: names separated by commas, such as 'my_models.py,my.package'. Modules are also
            looked up in the current folder.

    Returns:
        `names` with absolute paths for files, so that a run can be resumed from another folder.

    Raises:
        UserError: a file or a module that does not exist.
    """
    found = []
    for name in filter(None, map(str.strip, names.split(','))):
        if name.endswith('.py'):
            path = pathlib.Path(name).expanduser().resolve()
            _load_file(path)
            found.append(str(path))
        else:
            _load_module(name)
            found.append(name)
    return ','.join(found)


_OBJECT = re.compile(r'(?P<file>.+\.py):(?P<name>\w+)')


def is_object(spec: str) -> bool:
    """Returns whether `spec` names an object in a file: 'path/file.py:name'."""
    return bool(_OBJECT.fullmatch(spec))


def absolute(spec: str) -> str:
    """Returns `spec` with an absolute path if it begins with 'path/file.py:name'."""
    found = _OBJECT.match(spec)
    if not found:
        return spec
    path = pathlib.Path(found['file']).expanduser().resolve()
    return f'{path}{spec[found.end("file") :]}'


def load_object(spec: str, argument: str) -> Any:
    """Returns the object that 'path/file.py:name' names.

    Args:
        spec: the file and the name.
        argument: what the object is for; for messages.

    Raises:
        UserError: there is no such file, or it does not define the name.
    """
    found = _OBJECT.fullmatch(spec)
    assert found, spec
    module = _load_file(pathlib.Path(found['file']).expanduser().resolve(), argument)
    name = found['name']
    if not hasattr(module, name):
        own = ', '.join(
            n for n, v in vars(module).items() if getattr(v, '__module__', '') == module.__name__
        )
        raise UserError(
            f'{argument}={spec!r}: the file does not define {name}; it defines {own or "nothing"}'
        )
    return getattr(module, name)


def _load_file(path: pathlib.Path, argument: str = 'plugin') -> Any:
    if not path.is_file():
        raise UserError(f'{argument}={str(path)!r}: there is no such file')
    name = f'cnn_jax_plugin_{path.stem}_{abs(hash(path)):x}'
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_module(name: str) -> None:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f'{error.name}.')):
            raise UserError(f'plugin={name!r}: there is no such module') from error
        raise

"""Imports a user's own modules, so that the names they register can be used."""

import importlib
import importlib.util
import os
import pathlib
import sys

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


def _load_file(path: pathlib.Path) -> None:
    if not path.is_file():
        raise UserError(f'plugin={str(path)!r}: there is no such file')
    name = f'cnn_jax_plugin_{path.stem}_{abs(hash(path)):x}'
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _load_module(name: str) -> None:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f'{error.name}.')):
            raise UserError(f'plugin={name!r}: there is no such module') from error
        raise

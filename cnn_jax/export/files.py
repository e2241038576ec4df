"""The files of an export: the network, its description as JSON, and a model card.

model.stablehlo         the network
model.stablehlo.json    its description; see `metadata.describe`
model.stablehlo.md      a model card for people; see `card.model_card`
"""

import json
import os
import pathlib
from typing import Any

from cnn_jax.errors import UserError
from cnn_jax.export.card import model_card
from cnn_jax.export.metadata import FORMAT
from cnn_jax.output import write_whole
from cnn_jax.training.workdir import finite


def check_output(path: str | os.PathLike) -> pathlib.Path:
    """Returns the path of the file to write.

    Raises:
        UserError: it is a folder.
    """
    target = pathlib.Path(path).expanduser()
    if target.is_dir():
        raise UserError(f'output={str(path)!r} is a folder; name a file in it')
    return target


def write_export(path: pathlib.Path, content: bytes, about: dict[str, Any]) -> None:
    """Writes an export; each file appears when it is complete, the network last."""
    with write_whole(beside(path, '.json')) as file:
        file.write(json.dumps(finite(about), indent=1) + '\n')
    with write_whole(beside(path, '.md')) as file:
        file.write(model_card(about, path.name))
    with write_whole(path, 'wb') as file:
        file.write(content)


def read_about(path: pathlib.Path) -> dict[str, Any]:
    """Returns the description of an exported network.

    Raises:
        UserError: the network or its description is missing, damaged or of another version.
    """
    if not path.is_file():
        raise UserError(f'exported={str(path)!r}: no such file')
    file = beside(path, '.json')
    try:
        about = json.loads(file.read_text())
        version = about['format']
    except FileNotFoundError:
        raise UserError(
            f'exported={str(path)!r}: {file.name}, its description, is missing'
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'{file} cannot be read: {error!r}') from error
    if version != FORMAT:
        raise UserError(f'{file} has format {version}; this version reads format {FORMAT}')
    return about


def beside(path: pathlib.Path, suffix: str) -> pathlib.Path:
    """Returns the path of a file beside an export: its whole name with another suffix."""
    return path.with_name(path.name + suffix)

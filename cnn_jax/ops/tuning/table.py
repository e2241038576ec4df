"""Measured choices: what each kernel took for a convolution, on one kind of device, as JSON.

`experiments/compare_kernels.py --save_choices` writes such a table. Used is the first there is of

    the file that $CNN_JAX_TUNING names, on the platform that it was measured on
    the user's own for this device: `own_path(platform)`
    the package's own for this device: a .json file in this folder

On a CPU the device is the processor with its number of cores, elsewhere what JAX calls its kind.
"""

import dataclasses
import functools
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from cnn_jax import machine
from cnn_jax.errors import UserError
from cnn_jax.machine import cache_folder
from cnn_jax.ops.spec import ConvSpec

VARIABLE = 'CNN_JAX_TUNING'
VERSION = 2

Times = Mapping[str, float]  # kernel -> seconds

_log = logging.getLogger(__name__)


def times(spec: ConvSpec, op: str, platform: str) -> Times:
    """Returns each kernel's seconds for `op` of `spec`, fastest first; empty if not measured."""
    return _choices(platform).get(key(spec), {}).get(op, {})


def key(spec: ConvSpec) -> str:
    return repr(dataclasses.astuple(spec))


def device(platform: str) -> str | None:
    """Returns the device that a table of this platform is for; None where there is none here."""
    if platform == 'cpu':
        return _processor()
    try:
        return jax.local_devices(backend=platform)[0].device_kind
    except RuntimeError:  # compiled for, but not here
        return None


def _processor() -> str:
    return f'{machine.processor()}, {machine.cores()} cores'


def own_path(platform: str) -> Path:
    """Returns the path of this user's table for the platform's device here."""
    return cache_folder() / f'tuning-{_slug(device(platform) or platform)}.json'


def save(
    path: Path,
    choices: Mapping[str, Mapping[str, Times]],
    about: Mapping[str, Any],
    platform: str,
) -> None:
    """Adds `choices` (key of a spec -> map -> times) to the table at `path`, or begins one.

    Args:
        path: a JSON file; its entries for other convolutions stay.
        platform: that they were measured on.
        choices: what was measured; of each map the fastest kernel comes to be used.
        about: versions, date and the like; kept with each entry's file as the last that wrote it.

    Raises:
        ValueError: the file at `path` is no table, or one of another device.
    """
    kept = {}
    if path.exists():
        table = _read(path)
        found, own = (table['platform'], table['device']), (platform, device(platform) or '?')
        if found != own:
            raise UserError(f'{path} is a table of {": ".join(found)}, this is {": ".join(own)}')
        kept = table['choices']
    ranked = {
        name: {op: dict(sorted(some.items(), key=lambda item: item[1])) for op, some in ops.items()}
        for name, ops in choices.items()
    }
    table = {
        'version': VERSION,
        'platform': platform,
        'device': device(platform),
        **about,
        'choices': {name: kept.get(name, {}) | ranked.get(name, {}) for name in kept | ranked},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.new')
    temporary.write_text(json.dumps(table, indent=0) + '\n')
    temporary.replace(path)


@functools.cache
def _choices(platform: str) -> Mapping[str, Mapping[str, Times]]:
    """Read once per process."""
    named, here = os.environ.get(VARIABLE), device(platform)
    if not named and not here:
        return {}
    path = Path(named) if named else own_path(platform)
    if not named and not path.exists():
        path = Path(__file__).with_name(f'{_slug(here or platform)}.json')
        if not path.exists():
            return {}
    try:
        table = _read(path)
    except (OSError, ValueError) as error:
        _log.warning('no measured choices, the rules decide: %s', error)
        return {}
    if table['platform'] != platform:
        return {}
    if table['device'] != here:
        _log.warning('%s was measured on %s, this is %s', path, table['device'], here)
    return table['choices']


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text())
        if table['version'] in (1, VERSION) and isinstance(table['choices'], dict):
            # Version 1 knew processors only.
            return {'platform': 'cpu', 'device': table.get('processor')} | table
    except (json.JSONDecodeError, KeyError, TypeError):
        pass
    raise UserError(f'{path} is no table of measured choices of version {VERSION}')


def _slug(name: str) -> str:
    return re.sub(r'[^a-z0-9]+', '-', name.lower().replace('(r)', '')).strip('-')

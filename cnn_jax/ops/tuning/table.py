"""Reads and writes tables of measured kernel times for convolutions on one kind of device, as JSON.

`experiments/compare_kernels.py --save_choices` writes such a table. If $CNN_JAX_TUNING names a
file, only that file is used, on the platform that it was measured on. Otherwise, the first of these
that exists is used:

    the user's own table for this device: `own_path(platform)`
    the package's table for this device: a .json file in this folder

On a CPU, the device is the processor with its number of cores. On other platforms, it is JAX's
`device_kind`.
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
    values = dataclasses.astuple(spec)
    return repr(values if spec.operand_dtype else values[:-1])  # tables older than the field


def device(platform: str) -> str | None:
    """Returns the name of this machine's device of the platform; None if it has no such device."""
    if platform == 'cpu':
        return _processor()
    try:
        return jax.local_devices(backend=platform)[0].device_kind
    except RuntimeError:  # code can be compiled for a platform that this machine lacks
        return None


def _processor() -> str:
    return f'{machine.processor()}, {machine.cores()} cores'


def own_path(platform: str) -> Path:
    """Returns the path of this user's table for this machine's device of the platform."""
    return cache_folder() / f'tuning-{_slug(device(platform) or platform)}.json'


def save(
    path: Path,
    choices: Mapping[str, Mapping[str, Times]],
    about: Mapping[str, Any],
    platform: str,
    device_name: str | None = None,
) -> None:
    """Adds `choices` (key of a spec -> map -> times) to the table at `path`, or creates it.

    Args:
        path: a JSON file; its entries for other convolutions are kept.
        platform: the platform of the measurements.
        device_name: the device of the measurements; by default this machine's.
        choices: the measured times; the fastest kernel of each map will be used.
        about: versions, date and similar metadata; stored once per file, from the last save.

    Raises:
        ValueError: the file at `path` is not a table, or it is for another device.
    """
    kept, measured_on = {}, device_name or device(platform)
    if path.exists():
        table = _read(path)
        found, own = (table['platform'], table['device']), (platform, measured_on or '?')
        if found != own:
            raise UserError(f'{path} was measured on {": ".join(found)}, not on {": ".join(own)}')
        kept = table['choices']
    ranked = {
        name: {op: dict(sorted(some.items(), key=lambda item: item[1])) for op, some in ops.items()}
        for name, ops in choices.items()
    }
    table = {
        **about,  # first: JAX's own name of the platform is 'gpu' for both 'cuda' and 'rocm'
        'version': VERSION,
        'platform': platform,
        'device': measured_on,
        'choices': {name: kept.get(name, {}) | ranked.get(name, {}) for name in kept | ranked},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix('.new')
    temporary.write_text(json.dumps(table, indent=0) + '\n')
    temporary.replace(path)


@functools.cache
def _choices(platform: str) -> Mapping[str, Mapping[str, Times]]:
    """Returns the measured times for the platform; reads the file once per process."""
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
        _log.warning('cannot read measured choices, using the default rules: %s', error)
        return {}
    if table['platform'] != platform:
        return {}
    if table['device'] != here:
        _log.warning('%s was measured on %s, but this machine is %s', path, table['device'], here)
    return table['choices']


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text())
        if table['version'] in (1, VERSION) and isinstance(table['choices'], dict):
            # Version 1 supported processors only.
            return {'platform': 'cpu', 'device': table.get('processor')} | table
    except (json.JSONDecodeError, KeyError, TypeError):
        pass
    raise UserError(f'{path} is not a table of measured choices of version {VERSION}')


def _slug(name: str) -> str:
    return re.sub(r'[^a-z0-9]+', '-', name.lower().replace('(r)', '')).strip('-')

"""Kinds of devices: 'cpu', 'cuda', 'rocm' and 'tpu', as JAX names its lowerings."""

from typing import Any

import jax

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


def default_platform() -> str:
    """The platform of the device that JAX computes on unless told otherwise."""
    config: Any = jax.config  # its attributes are made at run time
    device = config.jax_default_device or jax.devices()[0]
    name = device if isinstance(device, str) else device.platform
    if name != 'gpu':
        return name
    version = '' if isinstance(device, str) else device.client.platform_version
    return 'rocm' if version.startswith('rocm') else 'cuda'

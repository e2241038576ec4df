"""Kinds of devices: 'cpu', 'cuda', 'rocm' and 'tpu', named as in JAX's lowering rules."""

from typing import Any

import jax

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


def default_platform() -> str:
    """Returns the platform of JAX's default device."""
    config: Any = jax.config  # its attributes are created at run time
    device = config.jax_default_device or jax.devices()[0]
    name = device if isinstance(device, str) else device.platform
    if name != 'gpu':
        return name
    version = '' if isinstance(device, str) else device.client.platform_version
    return 'rocm' if version.startswith('rocm') else 'cuda'

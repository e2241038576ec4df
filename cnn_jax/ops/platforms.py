"""Kinds of devices: 'cpu', 'cuda', 'rocm' and 'tpu', named as in JAX's lowering rules."""

import contextlib
from typing import Any

import jax

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')

_target = jax.make_user_context('')  # part of the key of every jit cache


def target_platform() -> str:
    """Returns the platform that a kernel is being traced for, which this machine may lack."""
    return _target.value or default_platform()


def tracing_for(platform: str) -> contextlib.AbstractContextManager[None]:
    """Context manager in which kernels are traced for `platform`."""
    return _target(platform)


def default_platform() -> str:
    """Returns the platform of JAX's default device."""
    config: Any = jax.config  # its attributes are created at run time
    device = config.jax_default_device or jax.devices()[0]
    name = device if isinstance(device, str) else device.platform
    if name != 'gpu':
        return name
    version = '' if isinstance(device, str) else device.client.platform_version
    return 'rocm' if version.startswith('rocm') else 'cuda'

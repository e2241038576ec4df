"""Chooses the kernel for a map of a convolution if the caller names none.

The choice follows measurements on this kind of device (`table`) if there are any, and otherwise
rules derived from such measurements (`rules`).
"""

from collections.abc import Iterator

from cnn_jax.ops import kernels
from cnn_jax.ops.spec import ConvSpec
from cnn_jax.ops.tuning import rules, table

__all__ = ['choose', 'ranked']


def choose(op: str, spec: ConvSpec, platform: str) -> tuple[str, str]:
    """Returns the kernel for map `op` of `spec` on `platform`, and the reason.

    `platform` is 'cpu', 'cuda', 'rocm' or 'tpu'.
    """
    return next(ranked(op, spec, platform))


def ranked(op: str, spec: ConvSpec, platform: str) -> Iterator[tuple[str, str]]:
    """Yields that kernel and its fallbacks with reasons, best first; the last one is 'lax'."""
    times = table.times(spec, op, platform)
    for name in times:
        if name in kernels.KERNELS and _supports(name, op, spec, platform):
            took = ', '.join(f'{other} {1e3 * t:.3g} ms' for other, t in times.items())
            yield name, f'measured: {took}'
    for name, why in rules.ranked(op, spec, platform):
        if name == 'lax' or _supports(name, op, spec, platform):
            yield name, why


def _supports(name: str, op: str, spec: ConvSpec, platform: str) -> bool:
    return kernels.reason_against(name, op, spec, platform) is None

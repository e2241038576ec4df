"""Which kernel computes a convolution and its gradients when the caller names none.

What was measured on this kind of machine decides (`table`); else the rules that were derived from
such measurements (`rules`).
"""

from cnn_jax.ops import kernels
from cnn_jax.ops.kernels import Choice
from cnn_jax.ops.spec import ConvSpec
from cnn_jax.ops.tuning import rules, table

__all__ = ['choose', 'reasons']


def choose(spec: ConvSpec, platform: str) -> Choice:
    """The kernels for `spec` on `platform` ('cpu', or anything else)."""
    return Choice(*(name for name, _ in reasons(spec, platform)))


def reasons(spec: ConvSpec, platform: str) -> list[tuple[str, str]]:
    """For each map of `Choice`, the kernel and why it was chosen."""
    if platform != 'cpu':
        return rules.elsewhere(spec, platform)
    return [_measured(op, spec) or rules.on_cpu(op, spec) for op in kernels.OPS]


def _measured(op: str, spec: ConvSpec) -> tuple[str, str] | None:
    times = table.times(spec, op)
    for name in times:
        if name in kernels.KERNELS and kernels.reason_against(name, op, spec) is None:
            took = ', '.join(f'{other} {1e3 * t:.3g} ms' for other, t in times.items())
            return name, f'measured: {took}'
    return None

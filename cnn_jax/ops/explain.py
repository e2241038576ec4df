"""`explain`: the kernels that a function's convolutions run by, and why."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from cnn_jax.ops import kernels
from cnn_jax.ops.spec import ConvSpec
from cnn_jax.ops.tuning import reasons


class Used(NamedTuple):
    """One map of one convolution: forward, input_grad or filter_grad."""

    op: str
    implementation: str
    spec: ConvSpec
    why: str
    against: dict[str, str]  # kernel -> why it could not have run this

    def __str__(self) -> str:
        shape = f'{self.spec.x_shape} * {self.spec.kernel_shape} -> {self.spec.y_shape}'
        return f'{self.op:11} {self.implementation:8} {shape} {self.spec.dtype}: {self.why}'


def explain(f: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Used]:
    """Every convolution that `f(*args, **kwargs)` runs, in order; nothing is computed.

    `f` may be one call, a model, or the gradient of a loss: inside a gradient the two gradients of
    each convolution appear as well. Arguments may be arrays or `jax.ShapeDtypeStruct`s.

        for used in cnn_jax.explain(jax.grad(loss), params, images):
            print(used)
    """
    jaxpr = jax.make_jaxpr(lambda *a: f(*a, **kwargs))(*args)
    return [_used(eqn) for eqn in _equations(jaxpr.jaxpr)]


def _used(eqn: Any) -> Used:
    op = eqn.primitive.name.removeprefix('conv_')
    spec, choice = eqn.params['spec'], eqn.params['choice']
    default, why = reasons(spec, jax.default_backend())[kernels.OPS.index(op)]
    name = getattr(choice, op) if choice else default
    against = {n: kernels.reason_against(n, op, spec) for n in kernels.KERNELS}
    return Used(
        op,
        name,
        spec,
        f'named by the caller (default: {default})' if choice else f'default: {why}',
        {n: reason for n, reason in against.items() if reason},
    )


def _equations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in {f'conv_{op}' for op in kernels.OPS}:
            yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, 'jaxpr', inner)
                if hasattr(inner, 'eqns'):
                    yield from _equations(inner)

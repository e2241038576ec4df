"""`explain` lists the kernels that a function's convolutions use, and why."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax import lax

from cnn_jax.ops import kernels, tuning
from cnn_jax.ops.lowering import equations, internals, rules
from cnn_jax.ops.platforms import default_platform
from cnn_jax.ops.spec import ConvSpec


class Used(NamedTuple):
    """One map of one convolution: forward, input_grad or filter_grad."""

    op: str
    implementation: str
    spec: ConvSpec
    why: str
    against: dict[str, str]  # kernel -> why it cannot run this map

    def __str__(self) -> str:
        shape = f'{self.spec.x_shape} * {self.spec.kernel_shape} -> {self.spec.y_shape}'
        dtype = f'{self.spec.operand_dtype} in ' if self.spec.operand_dtype else ''
        dtype += self.spec.dtype
        return f'{self.op:11} {self.implementation:8} {shape} {dtype}: {self.why}'


def explain(f: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Used]:
    """Lists every convolution that `f(*args, **kwargs)` runs, in order, without computing anything.

    `f` may be one call, a model, or the gradient of a loss. For a gradient, the two gradients of
    each convolution are listed as well. Arguments may be arrays or `jax.ShapeDtypeStruct`s.
    JAX convolutions of any library are listed too; within `installed()`, with the kernels that they
    use there. Convolutions that no kernel of this package handles, such as complex ones, are left
    out.

        for used in cnn_jax.explain(jax.grad(loss), params, images):
            print(used)
    """
    jaxpr = jax.make_jaxpr(lambda *a: f(*a, **kwargs))(*args)
    return [used for eqn in _equations(jaxpr.jaxpr) if (used := _used(eqn))]


def _used(eqn: Any) -> Used | None:
    lhs, rhs = (v.aval for v in eqn.invars)
    plan = equations.read(lhs, rhs, eqn.params)
    if plan is None:
        return None
    platform, text = default_platform(), internals.mark_of(eqn.ctx)
    name, why = next(iter(rules.chosen(text, plan, platform)))
    if why == rules.NAMED:
        why += f' (default: {tuning.choose(plan.op, plan.spec, platform)[0]})'
    elif why != rules.NOT_OURS:
        why = f'default: {why}'
    reasons = {n: kernels.reason_against(n, *plan[:2], platform) for n in kernels.KERNELS}
    against = {n: reason for n, reason in reasons.items() if reason}
    return Used(plan.op, name, plan.spec, why, against)


def _equations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        if eqn.primitive is lax.conv_general_dilated_p:
            yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, 'jaxpr', inner)
                if hasattr(inner, 'eqns'):
                    yield from _equations(inner)

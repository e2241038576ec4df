"""Convolution and its two gradients as JAX primitives, each computed by a kernel of choice.

    forward(x, w) -> y        input_grad(dy, w) -> dx        filter_grad(x, dy) -> dw

are bilinear, and every transpose of one is another of the three. With that said to JAX once, any
kernel, also a native one, can be differentiated to any order, forwards and backwards, mapped by
`vmap`, and the three may be computed by three different kernels. A transposed convolution is
`input_grad`.

A choice of None is settled when the map is compiled, for the platform it is compiled for.
"""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jax._src import dispatch as jax_dispatch
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cnn_jax.ops import kernels, tuning
from cnn_jax.ops.kernels import Choice
from cnn_jax.ops.spec import ConvSpec

Array = jax.Array


# What each map takes and gives, by role: input, kernel, output of the convolution.
ROLES: Mapping[str, str] = {'forward': 'xwy', 'input_grad': 'ywx', 'filter_grad': 'xyw'}

SHAPES: Mapping[str, Callable[[ConvSpec], tuple[int, ...]]] = {
    'x': lambda spec: spec.x_shape,
    'w': lambda spec: spec.kernel_shape,
    'y': lambda spec: spec.y_shape,
}

_PRIMITIVES = {op: Primitive(f'conv_{op}') for op in ROLES}


def forward(x: Array, w: Array, spec: ConvSpec, choice: Choice | None) -> Array:
    """The convolution of x (`spec.x_shape`) with w (`spec.kernel_shape`): `spec.y_shape`."""
    return _bind('forward', x, w, spec, choice)


def input_grad(dy: Array, w: Array, spec: ConvSpec, choice: Choice | None) -> Array:
    """The transpose of `forward` in x, applied to dy (`spec.y_shape`): `spec.x_shape`."""
    return _bind('input_grad', dy, w, spec, choice)


def filter_grad(x: Array, dy: Array, spec: ConvSpec, choice: Choice | None) -> Array:
    """The transpose of `forward` in w, applied to dy (`spec.y_shape`): `spec.kernel_shape`."""
    return _bind('filter_grad', x, dy, spec, choice)


def _bind(op: str, a: Array, b: Array, spec: ConvSpec, choice: Choice | None) -> Array:
    a, b = _equally_varying(a, b)
    return _PRIMITIVES[op].bind(a, b, spec=spec, choice=choice)


def _equally_varying(a: Array, b: Array) -> tuple[Array, Array]:
    # Inside shard_map, an operand that is the same on all devices must be marked as varying before
    # it meets one that differs: the transpose of that mark is the sum over devices which the
    # gradient of a replicated kernel needs.
    axes = [getattr(jax.typeof(v), 'vma', frozenset()) for v in (a, b)]
    missing = [tuple((axes[0] | axes[1]) - own) for own in axes]
    pvary = lambda v, names: lax.pcast(v, names, to='varying') if names else v  # noqa: E731
    if not hasattr(lax, 'pcast'):
        pvary = lambda v, names: lax.pvary(v, names) if names else v  # noqa: E731
    return pvary(a, missing[0]), pvary(b, missing[1])


def _compute(
    a: Array, b: Array, *, op: str, platform: str, spec: ConvSpec, choice: Choice | None
) -> Array:
    name = getattr(choice or tuning.choose(spec, platform), op)
    with jax.named_scope(f'{op}_{name}'):
        return kernels.function(name, op)(a, b, spec)


def _abstract(a, b, *, op: str, spec: ConvSpec, choice: Choice | None):
    del b, choice
    return a.update(shape=SHAPES[ROLES[op][2]](spec), dtype=jnp.dtype(spec.dtype), weak_type=False)


def _transpose(
    ct: Array, a, b, *, op: str, wrt: int, spec: ConvSpec, choice: Choice | None
) -> Array:
    # The map from the output and the other operand back to operand `wrt`, whose order of
    # arguments ROLES fixes.
    first, second, out = ROLES[op]
    wanted, given = (first, {second: b, out: ct}) if wrt == 0 else (second, {first: a, out: ct})
    back = next(name for name, roles in ROLES.items() if roles[2] == wanted)
    return _bind(back, given[ROLES[back][0]], given[ROLES[back][1]], spec, choice)


def _batch(args, dims, *, op: str, spec: ConvSpec, choice: Choice | None):
    """vmap: the mapped axis is folded into the batch, the features or the groups of one larger
    convolution; where a chosen kernel does not support that one, the maps run one by one."""
    roles = ROLES[op]
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
    operands = {
        role: (a if d is None else jnp.moveaxis(a, d, 0), d is not None)
        for role, a, d in zip(roles[:2], args, dims, strict=True)
    }
    mapped = {role for role, (_, is_mapped) in operands.items() if is_mapped} | {roles[2]}
    if mapped != set('xwy') and spec.groups > 1 and mapped != set('xy'):
        operands = {
            role: (a if is_mapped else jnp.broadcast_to(a, (size, *a.shape)), True)
            for role, (a, is_mapped) in operands.items()
        }
        mapped = set('xwy')
    axes, folded = _fold_axes(mapped, size, spec)
    if choice and any(kernels.reason_against(n, o, folded) for o, n in choice._asdict().items()):
        a, b = (
            a if is_mapped else jnp.broadcast_to(a, (size, *a.shape))
            for a, is_mapped in operands.values()
        )
        return lax.map(lambda ab: _bind(op, *ab, spec, choice), (a, b)), 0
    a, b = (
        _fold(operand, axes[role]) if is_mapped else operand
        for role, (operand, is_mapped) in operands.items()
    )
    out = _bind(op, a, b, folded, choice)
    return _unfold(out, axes[roles[2]], size), 0


def _fold_axes(mapped: set[str], size: int, spec: ConvSpec) -> tuple[dict[str, int], ConvSpec]:
    """Into which axis of each operand the mapped axis goes, and the larger convolution."""
    if mapped == set('xy'):
        return {'x': 0, 'y': 0}, spec.replace(batch=size * spec.batch)
    if mapped == set('wy'):
        return {'w': -1, 'y': -1}, spec.replace(out_features=size * spec.out_features)
    if mapped == set('xw'):
        return {'x': -1, 'w': -2}, spec.replace(in_features=size * spec.in_features)
    return {'x': -1, 'w': -1, 'y': -1}, spec.replace(
        in_features=size * spec.in_features,
        out_features=size * spec.out_features,
        groups=size * spec.groups,
    )


def _fold(a: Array, axis: int) -> Array:
    """(size, ..., n, ...) -> (..., size * n, ...), where n is axis `axis` of the unmapped array."""
    axis %= a.ndim - 1
    a = jnp.moveaxis(a, 0, axis)
    return a.reshape(*a.shape[:axis], a.shape[axis] * a.shape[axis + 1], *a.shape[axis + 2 :])


def _unfold(a: Array, axis: int, size: int) -> Array:
    axis %= a.ndim
    a = a.reshape(*a.shape[:axis], size, a.shape[axis] // size, *a.shape[axis + 1 :])
    return jnp.moveaxis(a, axis, 0)


def _define(op: str, primitive: Primitive) -> None:
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=('spec', 'choice')))
    primitive.def_abstract_eval(functools.partial(_abstract, op=op))
    # A kernel may be partitioned by hand (kernels/onednn/sharding.py), which needs the devices when
    # it is lowered; JAX passes them on for the primitives in this set only.
    jax_dispatch.prim_requires_devices_during_lowering.add(primitive)
    for platform in (None, 'cpu'):  # None: every platform without rules of its own
        compute = functools.partial(_compute, op=op, platform=platform or 'an accelerator')
        lowering = mlir.lower_fun(compute, multiple_results=False)
        mlir.register_lowering(primitive, lowering, platform=platform)
    ad.defbilinear(
        primitive,
        functools.partial(_transpose, op=op, wrt=0),
        functools.partial(_transpose, op=op, wrt=1),
    )
    batching.primitive_batchers[primitive] = functools.partial(_batch, op=op)


for _op, _primitive in _PRIMITIVES.items():
    _define(_op, _primitive)

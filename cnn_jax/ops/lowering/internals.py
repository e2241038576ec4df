"""Everything that this package uses of JAX's internals, tested with jax 0.7.2 and 0.10.2.

If an internal does not exist, `missing` names it. No rule is registered then, and the package
computes with XLA's own convolution. Any other kernel that a caller names is rejected with that
reason, and `python -m cnn_jax.doctor` reports it.
"""

import contextlib
import functools
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from cnn_jax.errors import UserError

KEY = 'cnn_jax'  # key in the metadata of an equation

Rule = Callable[..., Sequence[Any]]

custom_partitioning: Any = None
missing: str | None = None
try:
    from jax._src import config as _config
    from jax._src import dispatch as _dispatch
    from jax._src.core import subjaxprs
    from jax._src.dispatch import jaxpr_has_prim_requiring_devices  # noqa: F401
    from jax._src.interpreters import mlir as _mlir
    from jax._src.interpreters.mlir import (
        _lowerings,
        _platform_specific_lowerings,
        lower_with_sharding_in_types,
        wrap_xla_metadata_in_place,  # noqa: F401
    )
    from jax._src.lib.mlir import ir
    from jax._src.mesh import empty_abstract_mesh, use_abstract_mesh
    from jax.experimental.custom_partitioning import custom_partitioning
    from jax.experimental.xla_metadata import set_xla_metadata
    from jax.interpreters import mlir
except ImportError as error:
    missing = f'jax {jax.__version__} lacks internals that lowering the kernels needs: {error}'

__all__ = [
    'custom_partitioning',
    'devices',
    'for_export',
    'is_export',
    'lower',
    'mark',
    'mark_of',
    'mesh_of_program',
    'missing',
    'on_one_device',
    'operation',
    'original',
    'register',
    'set_global',
    'shape',
    'tell_devices',
    'undisturbed',
    'users',
]


def mark(text: str | None) -> contextlib.AbstractContextManager:
    """Context manager that marks the equations traced in it with `text`; None means no mark."""
    return contextlib.nullcontext() if missing else set_xla_metadata(**{KEY: text})


def mark_of(equation_context: Any) -> str | None:
    """Returns the text that `mark` wrote to an equation, given its context `eqn.ctx`."""
    return (getattr(equation_context, 'xla_metadata', None) or {}).get(KEY)


def _keep_marks_out_of_programs() -> None:
    """Stops JAX from writing the marks of this package into the lowered operations.

    JAX writes the metadata of an equation into its operations. Marks are only for the lowering
    rules, so a convolution that JAX lowers gives the same program as without this package.
    """
    write = _mlir.wrap_xla_metadata_in_place

    @functools.wraps(write)
    def without_marks(ctx: Any, operation: Any) -> None:
        if mark_of(ctx.jaxpr_eqn_ctx) is not None:
            rest = {k: v for k, v in ctx.jaxpr_eqn_ctx.xla_metadata.items() if k != KEY}
            if not rest:
                return
            ctx = ctx.replace(jaxpr_eqn_ctx=types.SimpleNamespace(xla_metadata=rest))
        write(ctx, operation)

    setattr(_mlir, 'wrap_xla_metadata_in_place', without_marks)  # noqa: B010


if not missing:
    _keep_marks_out_of_programs()


def is_export(ctx: Any) -> bool:
    """Returns whether the program is being lowered for `jax.export`."""
    parameters = getattr(ctx.module_context, 'lowering_parameters', None)
    return getattr(parameters, 'for_export', False)


def devices(ctx: Any) -> int:
    """Returns the number of devices that the program is partitioned over, 1 within shard_map."""
    return getattr(ctx.module_context.axis_context, 'num_devices', None) or 1


def original(primitive: Any, platform: str | None) -> Rule:
    """Returns JAX's own lowering rule for `primitive`, that for all platforms if it is None."""
    special = _platform_specific_lowerings[platform] if platform else {}
    entry = special.get(primitive) or _lowerings[primitive]
    rule: Any = getattr(entry, 'rule', entry)  # a pair as of JAX 0.9
    return rule


def register(
    primitive: Any, platform: str | None, rule: Rule, *, reads_operands: bool = False
) -> None:
    """Registers a lowering rule.

    Args:
        platform: None means all platforms without a rule of their own.
        reads_operands: whether the rule calls `operation` or `users` on its operands. JAX otherwise
            lowers equal equations once, with operands that no operation computes.
    """
    mlir.register_lowering(primitive, rule, platform=platform, cacheable=not reads_operands)


def operation(value: Any) -> Any:
    """Returns the operation that computes `value`, or None for an argument of a function."""
    return getattr(value.owner, 'operation', None)


def users(value: Any) -> Iterator[Any]:
    """Yields the operations that read `value`."""
    return (use.owner.operation for use in value.uses)


def shape(value: Any) -> list[int]:
    """Returns the static shape of a value in a program."""
    return list(ir.RankedTensorType(value.type).shape)


def tell_devices(is_partitioned: Callable[[Any], bool]) -> None:
    """Makes JAX pass the devices to programs with an equation that `is_partitioned` accepts.

    JAX's lowering may depend on the devices only if the program requires them. A program with such
    an equation does, because a custom partitioning may apply to its kernel.

    JAX's own mechanism, a set of primitives, would apply to every program with a convolution, and
    would reject those with two meshes or with an abstract mesh.
    """
    if missing:
        return
    asks = _dispatch.jaxpr_has_prim_requiring_devices

    def has_ours(jaxpr):
        return any(map(is_partitioned, jaxpr.eqns)) or any(map(has_ours, subjaxprs(jaxpr)))

    @functools.wraps(asks)
    def asks_too(jaxpr):
        return asks(jaxpr) or has_ours(jaxpr)

    setattr(_dispatch, 'jaxpr_has_prim_requiring_devices', asks_too)  # noqa: B010


def lower(ctx: Any, function: Callable[..., jax.Array], *operands: Any) -> Sequence[Any]:
    """Lowers `function`, a kernel, in place of the equation of `ctx`.

    The kernel sees plain arrays. Their placement on a mesh, and the configuration of the caller's
    thread, do not affect it.
    """
    plain = [jax.core.ShapedArray(a.shape, a.dtype) for a in ctx.avals_in]
    placement = ctx.module_context.axis_context
    with (
        undisturbed(),
        _one_device(getattr(placement, 'num_devices', None) == 1),
        _for_export(is_export(ctx)),
        _mesh(_mesh_to_partition(placement)),
    ):
        rule = mlir.lower_fun(function, multiple_results=False)
        inner = ctx.replace(avals_in=plain, avals_out=None, jaxpr_eqn_ctx=None)
        (out,) = rule(inner, *operands)
    return [lower_with_sharding_in_types(ctx, out, ctx.avals_out[0])]


_one_device = jax.make_user_context(False)


def on_one_device() -> bool:
    """Returns whether a kernel is being lowered for one device, so nothing can be partitioned."""
    return _one_device.value


_for_export = jax.make_user_context(False)


def for_export() -> bool:
    """Returns whether a kernel is being lowered for `jax.export`."""
    return _for_export.value


_mesh = jax.make_user_context(None)


def mesh_of_program() -> Any:
    """Returns the mesh that a kernel being lowered must be partitioned over, or None.

    Raises:
        UserError: the program runs on several devices, but their mesh is not known.
    """
    if isinstance(_mesh.value, str):
        raise UserError(_mesh.value)
    return _mesh.value


def _mesh_to_partition(placement: Any) -> Any:
    """Returns the mesh that a compiler would partition over, or why it is not known, or None."""
    devices = getattr(placement, 'num_devices', None)
    if devices is None:  # in shard_map or pmap
        manual = getattr(placement, 'manual_axes', None)
        automatic = set(placement.mesh.axis_names) - manual if manual else None
        if automatic:
            return f'shard_map must be over every axis of the mesh, not without {sorted(automatic)}'
    if devices in (None, 1):
        return None
    mesh = getattr(placement, 'abstract_mesh', None)
    if mesh is None or mesh.empty:
        return f'the mesh of the {devices} devices is not known: use a NamedSharding or shard_map'
    # The kernel sees plain arrays, whose types do not name the axes of an explicit mesh.
    return mesh.update_axis_types(dict.fromkeys(mesh.axis_names, jax.sharding.AxisType.Auto))


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Context manager in which kernels are traced without a mesh and with JAX's default modes.

    Within a caller's shard_map, JAX does not check along which axes the kernel's arrays vary, which
    Pallas would have to be told: they are plain.
    """
    with (
        mark(None),
        _config._check_vma(False),
        use_abstract_mesh(empty_abstract_mesh),
        jax.disable_jit(False),
        jax.numpy_rank_promotion('allow'),
        jax.numpy_dtype_promotion('standard'),
    ):
        yield


def set_global(context: Any, value: Any) -> None:
    """Sets the value of a context from `jax.make_user_context` for all threads."""
    getattr(context, '_obj', context).set_global(value)
